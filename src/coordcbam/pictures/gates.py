"""What a block does to one map: its gates, and the gain that they make at each position."""

import dataclasses
import math

import torch
from torch import Tensor

from coordcbam.block import CoordCBAM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates:
    """The gates of one block on one image, on the CPU in float64; 1 is neutral everywhere."""

    gain: Tensor  # (H, W), the total gain m, the mean over channels
    rows: Tensor  # (H,), the mean over channels
    columns: Tensor  # (W,)
    channels: Tensor  # (C,)
    note: str = ""


@torch.no_grad()
def gates_of(block: CoordCBAM, x: Tensor) -> Gates:
    """The gates of a block of ours, by its trace.

    ``m = 1 + alpha_eff * (s_c * clamp(1 + beta * (s_h * s_w - 1)) - 1)``, which is ``out / x``.

    Args:
        block: in eval mode.
        x: its input, (1, C, H, W).

    >>> block = CoordCBAM(8).eval()
    >>> gates_of(block, torch.randn(1, 8, 4, 4)).gain.unique()
    tensor([1.], dtype=torch.float64)
    """
    trace = block.trace(x)
    scale = block.ca.scale(trace.channel.gate)
    made = block.coord.gain(x * scale, trace.coord.rows, trace.coord.cols)
    channels, rows, cols = (t.double() for t in (scale / block.side.unit, made.rows, made.cols))
    alpha = 0.0 if block.bypassed else block.alpha_eff().double()

    product = rows * cols
    if made.beta is not None:
        product = 1.0 + made.beta * (product - 1.0)
    if made.clamp is not None:
        product = product.clamp(*made.clamp)
    if made.spatial is not None:
        product = product * made.spatial.double()
    return Gates(
        gain=_mean(1.0 + alpha * (channels * product - 1.0), 1),
        rows=_mean(rows, 1, 3),
        columns=_mean(cols, 1, 2),
        channels=channels[0].flatten().cpu(),
    )


@torch.no_grad()
def measured(x: Tensor, out: Tensor) -> Gates:
    """What any block did, from its input and output: ``<x, out> / <x, x>`` over the other axes.

    A position's gain is the sum over channels of ``x * out`` by that of ``x * x``, a row's the same
    sums over channels and columns, and so on; NaN where x is 0.

    Args:
        x: the input, (1, C, H, W).
        out: the output, of the same shape.

    >>> x = torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]]])
    >>> measured(x, x * torch.tensor([[[[0.5]], [[1.5]]]])).gain
    tensor([[1.0000, 0.5000]], dtype=torch.float64)
    """
    wide = x[0].double()
    product, energy = wide * out[0].double(), wide * wide

    def ratio(*axes: int) -> Tensor:
        below = energy.sum(axes)
        return (product.sum(axes) / below.where(below > 0.0, math.nan)).cpu()

    return Gates(
        gain=ratio(0),
        rows=ratio(0, 2),
        columns=ratio(0, 1),
        channels=ratio(1, 2),
        note="measured as <x, out> / <x, x>",
    )


def _mean(t: Tensor, *axes: int) -> Tensor:
    """Of the first sample, over the axes."""
    return t.mean(axes)[0].cpu()
