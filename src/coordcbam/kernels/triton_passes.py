"""The four passes in Triton: float32, bfloat16 and float16 on CUDA, NCHW or channels_last.

Triton comes with torch's CUDA builds and is imported when the first pass runs. Where it cannot
serve, :func:`supports` says why.
"""

import importlib.util
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coordcbam.kernels.passes import Factors, Passes, Shape, Statistics

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of a tile: its elements, sixteen to a thread; its columns in NCHW and in channels_last; and the
# bytes of neighbouring channels in channels_last, two sectors of memory.
ELEMENTS, COLUMNS, FEW_COLUMNS, RUN = 2048, 128, 16, 64
_INSTALLED = importlib.util.find_spec("triton") is not None
NOWHERE = 2**31 - 1  # positions of a map are counted in 32 bits


def supports(x: Tensor) -> str | None:
    """Why these passes cannot serve ``x``; None where they can.

    >>> supports(torch.zeros(1, 2, 3, 3, dtype=torch.float64))
    'x is float64, not float32, bfloat16 or float16'
    """
    return _unfit(x) or _out_of_reach(x.device)


def _unfit(x: Tensor) -> str | None:
    if x.dtype not in DTYPES:
        return f"x is {str(x.dtype).removeprefix('torch.')}, not float32, bfloat16 or float16"
    if x.numel() == 0:
        return "x is empty"
    if x.shape[2] * x.shape[3] > NOWHERE:
        return f"x has {x.shape[2]} x {x.shape[3]} positions, more than {NOWHERE}"
    return None


def missing() -> str | None:
    """Why this machine cannot run them; None where it can."""
    if not _INSTALLED:
        return "triton is not installed"
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return "there is no CUDA device"


def _out_of_reach(device: torch.device) -> str | None:
    cuda = device.type == "cuda"
    if not cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"x is on {device}, not on CUDA"
    if not _INSTALLED:
        return "triton is not installed"
    # What is compiled asks no device: the operators look again when they run.
    if (
        cuda
        and not torch.compiler.is_compiling()
        and torch.cuda.get_device_capability(device) < (8, 0)
    ):
        return f"{torch.cuda.get_device_name(device)} is below compute capability 8.0"
    return None


class Tile(NamedTuple):
    """What a program holds at a time: channels, rows, columns; powers of two, as Triton asks."""

    BC: int
    BH: int
    BW: int


class Plan(NamedTuple):
    """How a map is cut: ``programs`` own some channels and one of ``stripes`` of columns each."""

    tile: Tile
    stripes: int
    programs: int
    steps: int  # tiles that a program walks through

    @classmethod
    def of(cls, x: Tensor) -> "Plan":
        """The plan for a map of this shape, dtype and layout."""
        tile = _tile(x)
        blocks, steps, stripes = map(_blocks, x.shape[1:], tile)
        return cls(tile, stripes, x.shape[0] * blocks * stripes, steps)


def _tile(x: Tensor) -> Tile:
    channels, height, width = (1 << (size - 1).bit_length() for size in x.shape[1:])
    if x.is_contiguous():
        bw = min(width, COLUMNS)
        bh = min(height, max(ELEMENTS // bw, 1))
        return Tile(min(channels, max(ELEMENTS // (bw * bh), 1)), bh, bw)
    bc, bw = min(channels, RUN // x.itemsize), min(width, FEW_COLUMNS)
    return Tile(bc, min(height, max(ELEMENTS // (bc * bw), 1)), bw)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def profile(x: Tensor) -> Statistics:
    """Means and maxima of rows, columns and channels."""
    plan, (batch, channels, height, width) = Plan.of(x), x.shape
    mean, peak = (_parts(x, plan, batch, channels) for _ in range(2))
    row_mean, row_max = (_parts(x, plan, batch, channels, height) for _ in range(2))
    col_mean, col_max = (x.new_empty(batch, channels, width) for _ in range(2))
    found = (mean, peak, row_mean, row_max, col_mean, col_max)
    _launch("forward", "profile", plan, x, *found, *_place(x))
    return Statistics(
        mean=_added(mean, x),
        peak=_greatest(peak, x),
        row_mean=_added(row_mean, x),
        row_max=_greatest(row_max, x),
        col_mean=col_mean,
        col_max=col_max,
    )


def scale(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> Tensor:
    """``x * (1 + alpha * (g - 1))``."""
    return _scaled(x, factors, shape, alpha, measures=False)[0]


def measure(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the sums that a monitor reads, in float32."""
    y, shares = _scaled(x, factors, shape, alpha, measures=True)
    return y, shares.view(5, x.shape[0], -1).sum(dim=2)


def _scaled(
    x: Tensor, factors: Factors, shape: Shape, alpha: Tensor, *, measures: bool
) -> tuple[Tensor, Tensor]:
    """The product, and every program's share of the sums."""
    plan, y = Plan.of(x), _like(x)
    plan = plan._replace(programs=plan.programs * plan.steps)
    shares = x.new_empty(5 * plan.programs if measures else 0, dtype=torch.float32)
    args = (x, *_gain(factors, shape, alpha), y, shares, *_place(x))
    _launch("forward", "scale", plan, *args, CLAMPS=shape.clamps, MEASURES=measures)
    return y, shares


def factor_gradients(
    grad: Tensor, x: Tensor, factors: Factors, shape: Shape, alpha: Tensor
) -> tuple[Factors, Tensor]:
    """Gradients of the factors and of alpha, from sums of ``grad * x``."""
    plan, (channel, rows, cols) = Plan.of(x), factors
    d_channel, d_rows = (_parts(t, plan, *t.shape) for t in (channel, rows))
    d_cols = cols.new_empty(cols.shape)
    d_alpha = x.new_empty(plan.stripes, *channel.shape, dtype=torch.float32)
    found = (d_channel, d_rows, d_cols, d_alpha)
    args = (grad, x, *_gain(factors, shape, alpha), *found, *grad.stride(), *_place(x))
    _launch("backward", "factors", plan, *args, CLAMPS=shape.clamps)
    gradients = Factors(_added(d_channel, channel), _added(d_rows, rows), d_cols)
    return gradients, d_alpha.sum().to(alpha.dtype)


def input_gradient(
    grad: Tensor,
    x: Tensor,
    factors: Factors,
    shape: Shape,
    alpha: Tensor,
    statistics: Statistics,
    gradients: Statistics,
) -> Tensor:
    """Gradient of x: through the gain, the means and the maxima."""
    plan, dx = Plan.of(x), _like(x)
    tops = _packed(statistics.peak, statistics.row_max, statistics.col_max)
    whole = plan.stripes == 1
    found = (dx, dx) if whole else _maxima(x, plan, *tops[:2])
    where = (*grad.stride(), *_place(x))
    args = (grad, x, *_gain(factors, shape, alpha), *tops, *found, *_packed(*gradients), dx)
    _launch("backward", "input_gradient", plan, *args, *where, CLAMPS=shape.clamps, WHOLE=whole)
    return dx


def _maxima(x: Tensor, plan: Plan, peak: Tensor, row_max: Tensor) -> tuple[Tensor, Tensor]:
    """How often each row has its maximum, (B, C, H), and where a map has its first, (B, C)."""
    ties = x.new_empty(plan.stripes, *row_max.shape, dtype=torch.float32)
    first = x.new_empty(plan.stripes, *peak.shape, dtype=torch.int32)
    _launch("backward", "maxima", plan, x, peak, row_max, ties, first, *_place(x))
    return ties.sum(dim=0), first.amin(dim=0)


def _launch(module: str, kernel: str, plan: Plan, first: Tensor, *args: Any, **flags: bool) -> None:
    """Run a kernel on the device of its first argument."""
    programs = importlib.import_module(f"coordcbam.kernels.triton_{module}")
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        launch = getattr(programs, kernel)[(plan.programs,)]
        launch(first, *args, **flags, **plan.tile._asdict())


def _place(x: Tensor) -> tuple[int, ...]:
    return (*x.stride(), *x.shape)


def _gain(factors: Factors, shape: Shape, alpha: Tensor) -> tuple[Any, ...]:
    return (*_packed(*factors), alpha, *shape)


def _packed(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def _like(x: Tensor) -> Tensor:
    """Room for a result that is addressed as x is."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


def _parts(like: Tensor, plan: Plan, *shape: int) -> Tensor:
    """Room for what each stripe finds; a single one's finding is the result."""
    dtype = like.dtype if plan.stripes == 1 else torch.float32
    return like.new_empty(plan.stripes, *shape, dtype=dtype)


def _added(parts: Tensor, like: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(dim=0).to(like.dtype)


def _greatest(parts: Tensor, like: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.amax(dim=0).to(like.dtype)


PASSES = Passes(
    name="triton",
    profile=profile,
    scale=scale,
    measure=measure,
    factors=factor_gradients,
    input=input_gradient,
)
