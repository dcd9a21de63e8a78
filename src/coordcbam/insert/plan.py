"""Where blocks would go and what they would cost, before anything is touched."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from coordcbam._support.errors import UsageError, nearest, shown
from coordcbam._support.permanent import permanent
from coordcbam.block import BlockConfig, CoordCBAM
from coordcbam.block.config import checked_config
from coordcbam.insert.attach import ATTRIBUTE, check_model, has_block
from coordcbam.insert.foreign import Foreign

Places: TypeAlias = str | Iterable[str] | Callable[[str, nn.Module], bool]


class PlaceError(UsageError):
    """A place that does not exist or cannot carry a block."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One place: the layer's path and class, its output channels, the parameters a block adds."""

    path: str
    layer: str
    channels: int
    parameters: int


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What an insertion would do, row by row; printing it gives a table."""

    rows: tuple[Row, ...]
    config: BlockConfig
    block: Foreign | None = None  # what is inserted instead of ours

    @property
    def parameters(self) -> int:
        """Parameters added in all."""
        return sum(row.parameters for row in self.rows)

    def __str__(self) -> str:
        """The rows as an aligned table."""
        head = ("layer", "path", "channels", "parameters added")
        body = [(r.layer, r.path, f"{r.channels:,}", f"{r.parameters:,}") for r in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in (head, *body)
        )


def plan(
    model: nn.Module,
    at: Places,
    *,
    config: BlockConfig | None = None,
    inputs: Any = None,
    block: Foreign | None = None,
) -> Plan:
    """Find the layers, read their channels from one forward, count parameters; change nothing.

    Args:
        model: any module.
        at: a path or glob (``"layer3"``, ``"backbone.*.2"``), several of them, or a predicate
            ``(path, module) -> bool``.
        config: the block's options; the default is ``BlockConfig.step3()``.
        inputs: what to call ``model`` with to see the layers' outputs: a tensor, or a tuple of
            arguments. Runs once in eval mode without gradients.
        block: one that is not ours, instead; it has no config.

    Raises:
        PlaceError: nothing matches, a block is there already, or a layer gives no (B, C, H, W) map.
    """
    check_model(model)
    config = checked_config(config)
    layers = find(model, at)
    widths = _widths(model, layers, inputs)
    rows = (row_for(path, layer, widths[path], config, block) for path, layer in layers.items())
    return Plan(config=config, rows=tuple(rows), block=block)


def row_for(
    path: str, layer: nn.Module, channels: int, config: BlockConfig, block: Foreign | None = None
) -> Row:
    """The row of one place; a block of ours is counted without allocating it."""
    made: nn.Module
    if block is not None:
        made = block.build(channels)
    else:
        with torch.device("meta"):
            made = CoordCBAM(channels, config)
    count = sum(parameter.numel() for parameter in made.parameters())
    return Row(path=path, layer=type(layer).__name__, channels=channels, parameters=count)


def find(model: nn.Module, at: Places) -> dict[str, nn.Module]:
    """The layers that ``at`` names and behind which a block can be, by path, in the model's order.

    A Sequential gives way to its last layer, whose output is the same: a child added to a
    Sequential would be run by it.
    """
    found = {}
    for named, layer in chosen(model, at).items():
        path, module = _last_of_sequential(named, layer)
        if isinstance(module, nn.Sequential):
            raise PlaceError(
                f"{path} is an empty Sequential, which would run the block itself: "
                "name the layer before it"
            )
        if has_block(module):
            raise PlaceError(f"{path} has a block already: remove_(model) takes it out")
        found[path] = module
    return found


def chosen(model: nn.Module, at: Places) -> dict[str, nn.Module]:
    """The layers that ``at`` names, by path, in the model's order; at least one per pattern.

    Raises:
        PlaceError: nothing matches, or ``at`` is no place.
    """
    everything = {
        path: module
        for path, module in model.named_modules()
        if path and ATTRIBUTE not in path.split(".")
    }
    wanted: set[str] = set()
    if callable(at):
        wanted = {path for path, module in everything.items() if at(path, module)}
        if not wanted:
            raise PlaceError("at=<predicate>: no layer of the model matches it")
    elif not isinstance(at, Iterable):
        raise PlaceError(f"at={shown(at)}: expected a path, a glob, several of them or a predicate")
    else:
        for pattern in [at] if isinstance(at, str) else at:
            hits = fnmatch.filter(everything, str(pattern))
            if not hits:
                whole = "" if isinstance(at, str) else f"at={shown(at)}: "
                raise PlaceError(
                    f"{whole}no layer {pattern!r} in {type(model).__name__}: nearest are "
                    f"{nearest(str(pattern), everything)}"
                )
            wanted.update(hits)
    if not wanted:
        raise PlaceError(f"at={shown(at)} names no place: give a path, a glob or a predicate")
    return {path: module for path, module in everything.items() if path in wanted}


def _last_of_sequential(path: str, module: nn.Module) -> tuple[str, nn.Module]:
    while isinstance(module, nn.Sequential) and len(module):
        name = next(reversed(module._modules))  # "bn" as well as "1"
        path, module = f"{path}.{name}", module[-1]
    return path, module


def _widths(model: nn.Module, layers: dict[str, nn.Module], inputs: Any) -> dict[str, int]:
    """The channels of each layer's output, by path, from one forward of the model."""
    if inputs is None:
        raise PlaceError("inputs=None: give what the model is called with, to see its maps' widths")
    seen: dict[str, Any] = {}
    handles = [
        layer.register_forward_hook(lambda _m, _a, out, path=path: seen.__setitem__(path, out))
        for path, layer in layers.items()
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    widths = {}
    for path, layer in layers.items():
        out = seen.get(path)
        if path not in seen:
            raise PlaceError(f"{path} ({type(layer).__name__}) did not run in the forward pass")
        if not isinstance(out, Tensor) or out.dim() != 4:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise PlaceError(
                f"{path} ({type(layer).__name__}) gives {got}: expected one (B, C, H, W) map"
            )
        if _is_channels_last(out, inputs):
            raise PlaceError(
                f"{path} ({type(layer).__name__}) gives {tuple(out.shape)}, channels last: "
                "expected one (B, C, H, W) map; name a layer behind which it is permuted"
            )
        widths[path] = out.shape[1]
    return widths


def _is_channels_last(out: Tensor, inputs: Any) -> bool:
    """Whether (B, H, W, C) has the proportions of the image exactly, and (B, C, H, W) has not."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    images = [x for x in given if isinstance(x, Tensor) and x.dim() == 4]
    if not images:
        return False
    (height, width), (_, a, b, c) = images[0].shape[2:], out.shape
    # Layers without padding take some pixels off both sides.
    as_map = abs(b * width - c * height) <= 4 * (height + width)
    return not as_map and a * width == b * height
