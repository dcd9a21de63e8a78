# mypy: ignore-errors
# ruff: noqa: PLR0913, PLR0917
"""The passes of a forward, as Triton programs."""

import triton
import triton.language as tl

from coordcbam.kernels.triton_tools import (
    clamped,
    coordinates,
    floats,
    larger,
    over_map,
    rows_from,
    stripe_of,
)


@triton.jit
def profile(
    x,
    mean,
    peak,
    row_mean,
    row_max,
    col_mean,
    col_max,
    xb,
    xc,
    xh,
    xw,
    B,
    C,
    H,
    W,
    BC: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
):
    """Means and maxima; those of rows and of the map are this stripe's share, (stripes, B, C)."""
    stripe, b, c, w = stripe_of(tl.program_id(0), C, W, BC, BW)
    part = (stripe * B + b) * C + c
    columns = (c < C) & (w < W)
    total = tl.zeros((BC, BH, BW), tl.float32)
    top = tl.full((BC, BH, BW), float("-inf"), tl.float32)
    for start in range(0, H, BH):
        h = rows_from(start, BH)
        there = (c < C) & (h < H)
        inside = columns & (h < H)
        tile = floats(x + (b * xb + c * xc + h * xh + w * xw), inside)
        known = tl.where(inside, tile, float("-inf"))
        total += tile
        top = larger(top, known)
        row = part * H + h
        tl.store(row_mean + row, tl.sum(tile, 2, keep_dims=True) / W, there)
        tl.store(row_max + row, tl.reduce(known, 2, larger, keep_dims=True), there)
    col = (b * C + c) * W + w
    col_top = tl.reduce(top, 1, larger, keep_dims=True)
    tl.store(col_mean + col, tl.sum(total, 1, keep_dims=True) / H, columns)
    tl.store(col_max + col, col_top, columns)
    tl.store(mean + part, over_map(total) / (H * W), c < C)
    tl.store(peak + part, tl.reduce(col_top, 2, larger, keep_dims=True), c < C)


@triton.jit
def scale(
    x,
    channel,
    rows,
    cols,
    alpha,
    beta,
    low,
    high,
    y,
    sums,
    xb,
    xc,
    xh,
    xw,
    B,  # noqa: ARG001
    C,
    H,
    W,
    CLAMPS: tl.constexpr,
    MEASURES: tl.constexpr,
    BC: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
):
    """``x * (1 + alpha * (g - 1))`` of one tile, and its share of the sums, (5, programs)."""
    steps = tl.cdiv(H, BH)
    _, b, c, w = stripe_of(tl.program_id(0) // steps, C, W, BC, BW)
    h = rows_from(tl.program_id(0) % steps * BH, BH)
    plane = b * C + c
    s = floats(channel + plane, c < C)
    r = floats(rows + plane * H + h, (c < C) & (h < H))
    q = floats(cols + plane * W + w, (c < C) & (w < W))
    k = coordinates(r, q, beta)
    if CLAMPS:
        k = clamped(k, low, high)
    strength = tl.load(alpha).to(tl.float32)
    inside = (c < C) & (h < H) & (w < W)
    at = b * xb + c * xc + h * xh + w * xw
    tile = floats(x + at, inside)
    tl.store(y + at, tile * ((1.0 - strength) + strength * (s * k)), inside)
    if MEASURES:
        attended = tile * (s * k)
        own = sums + tl.program_id(0)
        programs = tl.num_programs(0)
        tl.store(own, tl.sum(tile * tile))
        tl.store(own + programs, tl.sum(tile * attended))
        tl.store(own + 2 * programs, tl.sum(attended * attended))
        tl.store(own + 3 * programs, tl.sum(tile))
        tl.store(own + 4 * programs, tl.sum(attended))
