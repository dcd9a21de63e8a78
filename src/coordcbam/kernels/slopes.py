"""The side nets backwards in C: from the factors' gradients to those of statistics and weights."""

import ctypes
import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coordcbam.kernels import cpu, whole
from coordcbam.kernels.packed import Packed, Slopes
from coordcbam.kernels.passes import Factors, Statistics
from coordcbam.kernels.side import SideWeights, leaves

GROUPS = 4  # of samples, each with gradients of its own: that many threads can work
_WIDEST = 8  # floats; a row of a weight's gradient is so many or a multiple


_FIELDS = ctypes.sizeof(Slopes) // 8


class Place(NamedTuple):
    """Where in a group's gradients one weight's is."""

    name: str
    field: int  # of :class:`Slopes`, all of whose fields are eight bytes
    at: int
    shape: tuple[int, ...]  # of what C adds up
    mid: int | None  # so many of a row are used; None: all
    turned: bool  # whether it is the transpose

    def view(self, room: Tensor) -> Tensor:
        """The weight's gradient in its own shape, of a group's."""
        found = room[self.at : self.at + math.prod(self.shape)].view(self.shape)
        found = found if self.mid is None else found[:, : self.mid]
        return found.t() if self.turned else found


def gradients(
    found: Statistics, by: Factors, side: SideWeights, packed: Packed
) -> tuple[Statistics, dict[str, Tensor]]:
    """Gradients of the statistics and of the :func:`leaves`, from those of the factors."""
    batch, channels, height = found.row_mean.shape
    width = found.col_mean.shape[2]
    found = Statistics(*(t.contiguous() for t in found))
    by = Factors(*(t.contiguous() for t in by))
    places, step = _places(tuple((n, t.shape) for n, t in leaves(side).items()))
    groups = min(batch, GROUPS)
    room = torch.zeros(groups, step)
    row, col = torch.empty(batch, channels, height), torch.empty(batch, channels, width)
    mean, peak = torch.empty(batch, channels), torch.empty(batch, channels)
    slopes = Slopes(*(t.data_ptr() for t in (*by, mean, peak, row, col)), groups=groups, step=step)
    fields, start = (ctypes.c_int64 * _FIELDS).from_buffer(slopes), room.data_ptr()
    for place in places:
        fields[place.field] = start + 4 * place.at
    call = whole._call(batch, (height, width), packed, channels=channels)
    whole._point(call, found)
    call.slopes = ctypes.addressof(slopes)
    work = batch * channels * (height + width) * packed.mid
    cpu._divide(cpu._loaded().coordcbam_slopes, call, groups, work)
    total = room[0] if groups == 1 else room.sum(dim=0)
    return (
        Statistics(mean, peak, row, row, col, col),
        {place.name: place.view(total) for place in places},
    )


@functools.lru_cache(maxsize=256)
def _places(shapes: tuple[tuple[str, torch.Size], ...]) -> tuple[tuple[Place, ...], int]:
    """Where a group's gradients lie, and how many floats they are."""
    at, found = 0, []
    for name, size in shapes:
        shape, mid, turned = tuple(size), None, False
        if name.endswith(("into.weight", "head.weight", "refine.weight")):
            turned = name.endswith("into.weight")
            rows, mid = shape[::-1] if turned else shape
            shape = rows, _rounded(mid)
        found.append(Place(name, _field(name), at, shape, mid, turned))
        at += _rounded(math.prod(shape))
    return tuple(found), at


def _field(name: str) -> int:
    """Which field of :class:`Slopes` the name of a leaf spells."""
    kind: Any = Slopes
    offset = 0
    for word in name.split("."):
        if word.isdigit():
            kind = kind._type_
            offset += int(word) * ctypes.sizeof(kind)
        else:
            offset += getattr(kind, word).offset
            kind = dict(kind._fields_)[word]
    return offset // 8


def _rounded(floats: int) -> int:
    return (floats + _WIDEST - 1) // _WIDEST * _WIDEST
