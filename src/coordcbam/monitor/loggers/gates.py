"""The gates of every block for one probe, looked at without a trace on the model."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coordcbam._support.rng import fork_rng
from coordcbam.block import CoordCBAM
from coordcbam.insert import blocks, label

Gates = dict[str, dict[str, Tensor]]


def gates(model: nn.Module, probe: Any) -> Gates:
    """Each block's gates, ``{block: {name: values}}``, of one forward in eval without gradients.

    The model, its blocks' averages and the random numbers are afterwards what they were; nothing of
    the forward is kept. A guard has no gates.

    Args:
        model: the module.
        probe: what it is called with: a tensor, or a tuple of arguments.

    Returns:
        ``channel_gates`` (B·C values), ``row_gates`` (B·C·H) and ``column_gates`` (B·C·W) of every
        block that ran, in float32 on the host.

    >>> found = gates(nn.Sequential(CoordCBAM(8)), torch.randn(2, 8, 6, 5))
    >>> {name: len(values) for name, values in found["0"].items()}
    {'channel_gates': 16, 'row_gates': 96, 'column_gates': 80}
    """
    seen: Gates = {}
    handles = [
        block.register_forward_pre_hook(partial(_look, seen, label(path)))
        for path, block in blocks(model)
        if isinstance(block, CoordCBAM)
    ]
    try:
        with undisturbed(model):
            arguments = probe if isinstance(probe, tuple) else (probe,)
            model(*(_beside(model, argument) for argument in arguments))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _look(seen: Gates, where: str, block: CoordCBAM, args: tuple[Any, ...]) -> None:
    if where in seen:  # a block that is called twice
        return
    found = block.trace(args[0])
    maps = (found.channel.gate, found.coord.rows, found.coord.cols)
    names = ("channel_gates", "row_gates", "column_gates")
    seen[where] = {
        name: values.detach().float().flatten().cpu()
        for name, values in zip(names, maps, strict=True)
    }


def _beside(model: nn.Module, argument: Any) -> Any:
    """A tensor on the model's device; anything else as it is."""
    like = next(model.parameters(), None)
    if like is None or not isinstance(argument, Tensor):
        return argument
    return argument.to(like.device)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; then every module's attributes are again what they were.

    >>> model = nn.Sequential(nn.Dropout()).train()
    >>> with undisturbed(model):
    ...     model[0].training
    False
    >>> model[0].training
    True
    """
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    values = [
        (buffer, buffer._version, buffer.detach().clone())
        for buffer in model.buffers()
        if not buffer.is_inference()
    ]
    try:
        with fork_rng(*model.parameters()), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, attributes, buffers in before:
            now = vars(module)  # heads keep anchors there, the notebook's blocks their masks
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update(attributes)
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, version, value in values:
                if buffer._version != version:  # a graph of the caller's may hold the others
                    buffer.copy_(value)
