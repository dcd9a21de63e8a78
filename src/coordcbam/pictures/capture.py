"""Run a model on images and keep what each of its blocks did; the model itself is not touched."""

import copy
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from coordcbam._support.errors import UsageError, said
from coordcbam._support.rng import fork_rng
from coordcbam.block import CoordCBAM, Guard, GuardedResidual
from coordcbam.insert import ATTRIBUTE, ForeignBlock, label, switches
from coordcbam.pictures.gates import Gates, gates_of, measured

Caught = dict[str, Gates]


def capture(model: nn.Module, tensors: Iterable[Tensor]) -> list[Caught]:
    """The gates of each block on each image, by the block's name.

    A copy of the model runs, in eval mode and without gradients, so that whatever a forward leaves
    behind is in the copy; the random numbers are put back.

    Args:
        model: any module with blocks, called with one image at a time.
        tensors: (1, C, H, W) each; brought to the model's device and dtype.

    Raises:
        UsageError: no blocks in the model, one that does not run, or a model that has no copy.
    """
    found = _watched(model)
    if not found:
        raise UsageError("look: the model has no blocks; insert_(model, at=...) puts them in")
    twin = _copy(model)
    caught: Caught = {}
    for name, path in found.items():
        _listen(twin, path, functools.partial(caught.setdefault, name))
    like = next((p for p in twin.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.no_grad(), fork_rng(*twin.parameters()):
        return [_run(twin, tensor.to(like), caught, found) for tensor in tensors]


def _run(twin: nn.Module, tensor: Tensor, caught: Caught, names: Iterable[str]) -> Caught:
    caught.clear()
    twin(tensor)
    silent = [name for name in names if name not in caught]
    if silent:
        raise UsageError(f"look: the model ran and its block at {silent[0]} did not")
    return {name: caught[name] for name in names}


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:  # a stranger's module may hold anything
        raise UsageError(
            f"look: no copy of the {type(model).__name__} can be made: {said(error)}"
        ) from None


def _watched(model: nn.Module) -> dict[str, str]:
    """The path of each block by its name; of a guarded block, the guard's."""
    return {
        label(path): path
        for path, block in switches(model)
        if not (isinstance(block, ForeignBlock) and isinstance(block.inner, GuardedResidual))
    }


def _listen(twin: nn.Module, path: str, keep: Any) -> None:
    """Have the block at ``path`` tell what it did, whenever it runs."""
    block = twin.get_submodule(path)
    # A guard around a block that stays where it is runs in that block's hook, not as a module.
    if isinstance(block, Guard) and block.inner is None:
        block = twin.get_submodule(path.removesuffix(ATTRIBUTE).removesuffix("."))

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        x = (*args, *kwargs.values())[0]
        keep(gates_of(module, x) if isinstance(module, CoordCBAM) else measured(x, output))

    block.register_forward_hook(hook, with_kwargs=True)
