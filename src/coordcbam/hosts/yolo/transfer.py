"""Weights into a network whose layers have other numbers: each tensor from its own layer, or none.

Ultralytics matches tensors by name and shape, so behind an inserted row a layer gets nothing, or
what another layer of the same shape has learned. Here layers are matched first.
"""

import copy
import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from coordcbam.hosts.yolo.row import CoordCBAMLayer
from coordcbam.insert.attach import ATTRIBUTE

_KEY = re.compile(r"model\.(\d+)(\..+)?")


class Transfer(NamedTuple):
    """What a network has of another's tensors; ``str`` is the sentence for people."""

    kept: int  # tensors that are equal, each in its own layer
    total: int  # tensors of the source
    wrong: int  # of those that are not kept, how many equal the tensor of another layer
    moved: int  # kept ones whose layer has another number
    other: tuple[str, ...]  # layers of the target with tensors of another shape

    def __str__(self) -> str:
        """One sentence, such as ``499/499 tensors kept, 0 from a wrong layer``."""
        told = f"{self.kept}/{self.total} tensors kept, {self.wrong} from a wrong layer"
        left = self.total - self.kept
        if left:
            where = f" ({', '.join(self.other)}: another class count?)" if self.other else ""
            told += f", {left} new{where}"
        return told


def align(source: nn.Module, target: nn.Module) -> dict[int, int]:
    """Which layer of ``target`` is which of ``source``, by index; the last is always the last.

    Layers are matched in order, by type and by the shapes of their tensors, or by type alone where
    both networks have the same types. A row that is nothing but a block of ours is matched with the
    one behind the same layer.
    """
    theirs, ours = _layers(source), _layers(target)
    kinds = [[_kind(layer) for layer in layers.values()] for layers in (theirs, ours)]
    if kinds[0] == kinds[1]:
        found = dict(zip(theirs, ours, strict=True))
    else:
        found = _by_signature(theirs, ours)
    for index, layer in enumerate(getattr(source, "model", ())):
        new = found.get(index - 1, -2) + 1
        if isinstance(layer, CoordCBAMLayer) and new > 0 and _is_row(target, new):
            found[index] = new
    return found


def _by_signature(theirs: dict[int, nn.Module], ours: dict[int, nn.Module]) -> dict[int, int]:
    signatures = [[_signature(layer) for layer in layers.values()] for layers in (theirs, ours)]
    old, new = list(theirs), list(ours)
    matcher = difflib.SequenceMatcher(a=signatures[0], b=signatures[1], autojunk=False)
    found = {
        old[start + i]: new[at + i]
        for start, at, size in matcher.get_matching_blocks()
        for i in range(size)
    }
    if old and new and _related(theirs[old[-1]], ours[new[-1]]):
        found[old[-1]] = new[-1]
    return found


def _related(one: nn.Module, other: nn.Module) -> bool:
    """Whether two heads are of one kind: that of another task builds on the detector's."""
    common = {kind for kind in type(one).__mro__ if kind in type(other).__mro__}
    return bool(common - set(nn.Module.__mro__))


def arranged(source: Any, target: Any) -> Any:
    """``source`` with its layers where ``target`` has them: its keys are then the target's.

    It holds the source's own layers and tensors, and cannot be called.
    """
    layers: list[nn.Module] = [nn.Identity() for _ in getattr(target, "model", ())]
    for old, new in align(source, target).items():
        layers[new] = source.model[old]
    made = copy.copy(source)
    made._modules = {**source._modules, "model": nn.Sequential(*layers)}
    return made


def compare(source: nn.Module, target: nn.Module) -> Transfer:
    """What ``target`` has of the tensors of ``source``, each looked for in its own layer."""
    index_of = align(source, target)
    here = target.state_dict()
    tensors = source.state_dict()
    kept = moved = wrong = 0
    other: dict[str, None] = {}
    for key, value in tensors.items():
        new = renamed(key, index_of)
        if _equal(here.get(new), value):
            kept += 1
            moved += new != key
            continue
        if new in here and here[new].shape != value.shape:
            other[".".join(new.split(".")[:2])] = None
        wrong += new != key and _equal(here.get(key), value) and value.numel() > 1
    return Transfer(kept, len(tensors), wrong, moved, tuple(other))


def renamed(path: str, index_of: Mapping[int, int]) -> str:
    """The path of a layer, or the key of a tensor, in the target; a layer it has not is -1.

    >>> renamed("model.4.conv.weight", {4: 5}), renamed("model.9", {})
    ('model.5.conv.weight', 'model.-1')
    """
    parts = _KEY.fullmatch(path)
    if parts is None:
        return path
    return f"model.{index_of.get(int(parts[1]), -1)}{parts[2] or ''}"


def _equal(ours: Any, theirs: Any) -> bool:
    return (
        isinstance(ours, torch.Tensor)
        and isinstance(theirs, torch.Tensor)
        and ours.shape == theirs.shape
        and torch.equal(ours.float().cpu(), theirs.float().cpu())
    )


def _layers(network: Any) -> dict[int, nn.Module]:
    """The layers by index, without rows that are nothing but a block."""
    layers = enumerate(getattr(network, "model", ()))
    return {index: layer for index, layer in layers if not isinstance(layer, CoordCBAMLayer)}


def _is_row(network: Any, index: int) -> bool:
    layers = network.model
    return index < len(layers) and isinstance(layers[index], CoordCBAMLayer)


def _kind(layer: nn.Module) -> str:
    return type(layer).__name__


def _signature(layer: nn.Module) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """A layer's type and the shapes of its own tensors, without what is attached to it."""
    shapes = [
        tuple(value.shape)
        for key, value in layer.state_dict().items()
        if ATTRIBUTE not in key.split(".")
    ]
    return _kind(layer), tuple(shapes)
