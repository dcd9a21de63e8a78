# mypy: ignore-errors
"""What the Triton programs share: where each one is, and the gain in float32.

A program owns a block of channels and a stripe of columns of one sample and walks down its rows.
So columns are whole in one program, and rows are where one stripe holds them. A tile is
(channels, rows, columns), and so is everything computed from it. Tensors are read and written in
their own dtypes, masked to 0 outside the map; all arithmetic is float32. Nothing is atomic, so
two runs give the same bits.
"""

import triton
import triton.language as tl

NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit
def stripe_of(program, C, W, BC: tl.constexpr, BW: tl.constexpr):
    """Stripe, sample, channels and columns of a program."""
    stripes = tl.cdiv(W, BW)
    blocks = tl.cdiv(C, BC)
    stripe = program % stripes
    c = program // stripes % blocks * BC + tl.arange(0, BC)[:, None, None]
    w = stripe * BW + tl.arange(0, BW)[None, None, :]
    # 64 bits, for a batch may hold more elements than 32 can count.
    return stripe, (program // (stripes * blocks)).to(tl.int64), c.to(tl.int64), w.to(tl.int64)


@triton.jit
def rows_from(start, BH: tl.constexpr):
    """The rows of a tile."""
    return start + tl.arange(0, BH)[None, :, None].to(tl.int64)


@triton.jit
def floats(at, mask):
    """What lies there, in float32; 0 outside."""
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def larger(a, b):
    """The maximum as torch has it: a NaN wins."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def over_map(tile):
    """The sum of each channel."""
    return tl.sum(tl.sum(tile, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def coordinates(rows, cols, beta):
    """``1 - beta + beta * rows * cols``: exactly 1 for factors of 1."""
    return (1.0 - beta) + beta * (rows * cols)


@triton.jit
def clamped(k, low, high):
    """``k`` within its ends; a NaN stays one."""
    above = tl.maximum(k, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(above, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def peaks(tile, highest, inside, h, w, W):
    """The position in the map of every element that is the peak; nothing is where that is NaN."""
    return tl.where((tile == highest) & inside, (h * W + w).to(tl.int32), NOWHERE)


@triton.jit
def first_of(positions):
    """Each channel's first."""
    return tl.min(tl.min(positions, 2, keep_dims=True), 1, keep_dims=True)
