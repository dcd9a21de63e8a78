# mypy: ignore-errors
# ruff: noqa: PLR0913, PLR0917
"""The passes of a backward, as Triton programs."""

import triton
import triton.language as tl

from coordcbam.kernels.triton_tools import (
    NOWHERE,
    clamped,
    coordinates,
    first_of,
    floats,
    over_map,
    peaks,
    rows_from,
    stripe_of,
)


@triton.jit
def factors(
    grad,
    x,
    channel,
    rows,
    cols,
    alpha,
    beta,
    low,
    high,
    d_channel,
    d_rows,
    d_cols,
    d_alpha,
    gb,
    gc,
    gh,
    gw,
    xb,
    xc,
    xh,
    xw,
    B,
    C,
    H,
    W,
    CLAMPS: tl.constexpr,
    BC: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
):
    """Gradients of the factors and of alpha; all but those of columns are this stripe's share."""
    stripe, b, c, w = stripe_of(tl.program_id(0), C, W, BC, BW)
    plane = b * C + c
    part = (stripe * B + b) * C + c
    columns = (c < C) & (w < W)
    s = floats(channel + plane, c < C)
    q = floats(cols + plane * W + w, columns)
    strength = tl.load(alpha).to(tl.float32)
    by_rows = tl.zeros((BC, BH, BW), tl.float32)
    through = tl.zeros((BC, BH, BW), tl.float32)
    mixed = tl.zeros((BC, BH, BW), tl.float32)
    for start in range(0, H, BH):
        h = rows_from(start, BH)
        there = (c < C) & (h < H)
        inside = columns & (h < H)
        product = floats(grad + (b * gb + c * gc + h * gh + w * gw), inside)
        product *= floats(x + (b * xb + c * xc + h * xh + w * xw), inside)
        r = floats(rows + plane * H + h, there)
        k = coordinates(r, q, beta)
        free = product
        if CLAMPS:
            free *= ((k >= low) & (k <= high)).to(tl.float32)
            k = clamped(k, low, high)
        through += product * k
        mixed += product * (s * k - 1.0)
        by_rows += free * r
        by_cols = tl.sum(free * q, 2, keep_dims=True)
        tl.store(d_rows + part * H + h, beta * strength * s * by_cols, there)
    found = beta * strength * s * tl.sum(by_rows, 1, keep_dims=True)
    tl.store(d_cols + plane * W + w, found, columns)
    tl.store(d_channel + part, strength * over_map(through), c < C)
    tl.store(d_alpha + part, over_map(mixed), c < C)


@triton.jit
def maxima(
    x,
    peak,
    row_max,
    row_ties,
    first,
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
    """Where maxima lie that reach over stripes: this one's ties of rows, and its first peak."""
    stripe, b, c, w = stripe_of(tl.program_id(0), C, W, BC, BW)
    plane = b * C + c
    part = (stripe * B + b) * C + c
    highest = floats(peak + plane, c < C)
    earliest = tl.full((BC, BH, BW), NOWHERE, tl.int32)
    for start in range(0, H, BH):
        h = rows_from(start, BH)
        there = (c < C) & (h < H)
        inside = there & (w < W)
        tile = floats(x + (b * xb + c * xc + h * xh + w * xw), inside)
        earliest = tl.minimum(earliest, peaks(tile, highest, inside, h, w, W))
        tie = (tile == floats(row_max + plane * H + h, there)) & inside
        tl.store(row_ties + part * H + h, tl.sum(tie.to(tl.float32), 2, keep_dims=True), there)
    tl.store(first + part, first_of(earliest), c < C)


@triton.jit
def input_gradient(
    grad,
    x,
    channel,
    rows,
    cols,
    alpha,
    beta,
    low,
    high,
    peak,
    row_max,
    col_max,
    row_ties,
    first,
    d_mean,
    d_peak,
    d_row_mean,
    d_row_max,
    d_col_mean,
    d_col_max,
    dx,
    gb,
    gc,
    gh,
    gw,
    xb,
    xc,
    xh,
    xw,
    B,  # noqa: ARG001
    C,
    H,
    W,
    CLAMPS: tl.constexpr,
    WHOLE: tl.constexpr,
    BC: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
):
    """Gradient of x; ``WHOLE``: one stripe holds the rows and looks for their maxima itself."""
    _, b, c, w = stripe_of(tl.program_id(0), C, W, BC, BW)
    plane = b * C + c
    columns = (c < C) & (w < W)
    col = plane * W + w
    col_top = floats(col_max + col, columns)
    highest = floats(peak + plane, c < C)
    col_ties = tl.zeros((BC, BH, BW), tl.float32)
    earliest = tl.full((BC, BH, BW), NOWHERE, tl.int32)
    for start in range(0, H, BH):
        h = rows_from(start, BH)
        inside = columns & (h < H)
        tile = floats(x + (b * xb + c * xc + h * xh + w * xw), inside)
        col_ties += ((tile == col_top) & inside).to(tl.float32)
        if WHOLE:
            earliest = tl.minimum(earliest, peaks(tile, highest, inside, h, w, W))
    position = first_of(earliest) if WHOLE else tl.load(first + plane, c < C, NOWHERE)

    # A maximum that nothing equals is a NaN; 0 times its infinite share is one too, as in torch.
    ties = tl.where(columns, tl.sum(col_ties, 1, keep_dims=True), 1.0)
    col_share = floats(d_col_max + col, columns) / ties
    means = floats(d_col_mean + col, columns) / H + floats(d_mean + plane, c < C) / (H * W)
    of_peak = floats(d_peak + plane, c < C)
    s = floats(channel + plane, c < C)
    q = floats(cols + col, columns)
    strength = tl.load(alpha).to(tl.float32)
    for start in range(0, H, BH):
        h = rows_from(start, BH)
        there = (c < C) & (h < H)
        inside = columns & (h < H)
        row = plane * H + h
        at = b * xb + c * xc + h * xh + w * xw
        tile = floats(x + at, inside)
        k = coordinates(floats(rows + row, there), q, beta)
        if CLAMPS:
            k = clamped(k, low, high)
        found = floats(grad + (b * gb + c * gc + h * gh + w * gw), inside)
        found *= (1.0 - strength) + strength * (s * k)
        found += floats(d_row_mean + row, there) / W + means
        tie = ((tile == floats(row_max + row, there)) & inside).to(tl.float32)
        shared = tl.sum(tie, 2, keep_dims=True) if WHOLE else floats(row_ties + row, there)
        found += tie * (floats(d_row_max + row, there) / tl.where(there, shared, 1.0))
        found += (tile == col_top).to(tl.float32) * col_share
        found += tl.where((h * W + w).to(tl.int32) == position, of_peak, 0.0)
        tl.store(dx + at, found, inside)
