"""Five sums of each sample, from which everything that a monitor says of a signal follows."""

import torch
from torch import Tensor

SUMS = 5  # <x, x>, <x, y>, <y, y>, sum x, sum y

_NARROW = (torch.float16, torch.bfloat16)


@torch.no_grad()
def sums(x: Tensor, y: Tensor, change: Tensor | None = None, *, exact: bool = False) -> Tensor:
    """``<x, x>``, ``<x, y>``, ``<y, y>``, ``sum x`` and ``sum y`` of each sample, (5, B).

    A norm is one pass over memory where a product and its sum are three; a matrix product would
    round to TF32 or to autocast's dtype. Row by row, so that long sums keep their digits.

    Args:
        x: a map, (B, C, H, W).
        y: another of its shape.
        change: ``y - x``, if it is at hand.
        exact: add up in float64, so that a deviation survives a mean that is much larger. Narrow
            dtypes always do: the squares of bfloat16's range fit no float32.

    >>> sums(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.5, 1.0]]]])).flatten()
    tensor([5.0000, 2.5000, 1.2500, 3.0000, 1.5000])
    """
    narrow = x.dtype in _NARROW
    if narrow or change is None:  # a narrow change is a rounded one
        x, y = (t.float() if narrow else t for t in (x, y))
        change = y - x
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x, y, change = (t.permute(0, 2, 3, 1) for t in (x, y, change))
    x, y, change = (t.flatten(2) for t in (x, y, change))
    dtype = _accumulator(x) if exact or narrow else x.dtype
    norms = [torch.linalg.vector_norm(t, dim=2, dtype=dtype) for t in (x, y, change)]
    xx, yy, apart = torch.stack(norms).square().sum(dim=2)
    totals = [t.sum(dim=(1, 2), dtype=dtype) for t in (x, y)]
    return torch.stack([xx, 0.5 * (xx + yy - apart), yy, *totals])


def _accumulator(x: Tensor) -> torch.dtype:
    """float64 where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64
