"""A whole forward in one call of the C kernels: profile, side nets, scaling, sample by sample.

A sample's x is still in cache when it is scaled, and what lies between needs no tensor. The passes
are those of :mod:`coordcbam.kernels.cpu`, to the bit; the side nets are
:func:`coordcbam.kernels.side.attended` without minima.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam.kernels import cpu
from coordcbam.kernels.packed import Call, Packed
from coordcbam.kernels.passes import Factors, Statistics
from coordcbam.kernels.side import Maps


class Whole(NamedTuple):
    """A forward's output, and what else was asked for."""

    out: Tensor
    sums: Tensor | None  # (5, B) in float64, as the passes' measure has them
    found: Statistics | None
    maps: Maps | None
    factors: Factors | None


def forward(
    x: Tensor, packed: Packed, alpha: float, *, sums: bool = False, keep: bool = False
) -> Whole:
    """The whole block on an ``x`` that :func:`coordcbam.kernels.cpu.supports`.

    Args:
        x: (B, C, H, W).
        packed: of C channels.
        alpha: the share of the mix.
        sums: whether to measure too.
        keep: whether to give the statistics, the maps and the factors as well.
    """
    call = _call(x.shape[0], (x.shape[2], x.shape[3]), packed, channels=x.shape[1])
    out = torch.empty_like(x)
    call.channels_last = not x.is_contiguous()
    call.clamps = packed.clamps
    call.beta, call.low, call.high = packed.shape
    call.alpha = alpha
    call.x, call.out = x.data_ptr(), out.data_ptr()
    totals = x.new_empty((5, call.batch), dtype=torch.float64) if sums else None
    if totals is not None:
        call.totals = totals.data_ptr()
    apart = call.batch < min(torch.get_num_threads(), x.numel() // cpu.GRAIN)
    found = factors = maps = None
    if keep or apart:
        found = _statistics(call, x)
        factors, maps = _made(call, packed, x, keep=keep)
    if apart:
        _apart(x, call, sums=sums)
    else:
        cpu._divide(cpu._loaded().coordcbam_whole, call, call.batch, x.numel())
    return (
        Whole(out, totals, found, maps, factors) if keep else Whole(out, totals, None, None, None)
    )


def side(found: Statistics, packed: Packed) -> tuple[Maps, Factors]:
    """The side nets alone, on float32 statistics of the CPU: the same bits as within a forward."""
    batch, channels, height = found.row_mean.shape
    found = Statistics(*(t.contiguous() for t in found))
    call = _call(batch, (height, found.col_mean.shape[2]), packed, channels=channels)
    _point(call, found)
    factors, maps = _made(call, packed, found.mean, keep=True)
    assert maps is not None
    work = batch * channels * (height + found.col_mean.shape[2]) * packed.mid // 8
    cpu._divide(cpu._loaded().coordcbam_side, call, batch, work)
    return maps, factors


def _call(batch: int, size: tuple[int, int], packed: Packed, *, channels: int) -> Call:
    """What both entries need."""
    if channels != packed.channels:
        raise ValueError(f"x has {channels} channels, the weights are for {packed.channels}")
    return Call(batch, channels, *size, 0, cpu.WIDEST, side=packed.address)


def _apart(x: Tensor, call: Call, *, sums: bool) -> None:
    """Pass by pass: their units are smaller than a sample, so that more threads get some."""
    library = cpu._loaded()
    batch, parts, elements = call.batch, cpu._units(x), x.numel()
    cpu._divide(library.coordcbam_profile, call, batch * parts, elements)
    cpu._divide(library.coordcbam_side, call, batch, elements)
    call.channel, call.rows, call.cols = call.made_channel, call.made_rows, call.made_cols
    if not sums:
        cpu._divide(library.coordcbam_scale, call, batch * parts, elements)
        return
    by_part = x.new_empty((batch, parts, 5), dtype=torch.float64)
    call.sums = by_part.data_ptr()
    cpu._divide(library.coordcbam_measure, call, batch * parts, elements)
    cpu._divide(library.coordcbam_totals, call, batch, 0)


def _statistics(call: Call, like: Tensor) -> Statistics:
    """Room for them, to which ``call`` points."""
    batch, channels, height, width = call.batch, call.channels, call.height, call.width
    of = like.new_empty
    found = Statistics(
        mean=of((batch, channels)),
        peak=of((batch, channels)),
        row_mean=of((batch, channels, height)),
        row_max=of((batch, channels, height)),
        col_mean=of((batch, channels, width)),
        col_max=of((batch, channels, width)),
    )
    _point(call, found)
    return found


def _point(call: Call, found: Statistics) -> None:
    call.mean, call.peak = found.mean.data_ptr(), found.peak.data_ptr()
    call.row_mean, call.row_max = found.row_mean.data_ptr(), found.row_max.data_ptr()
    call.col_mean, call.col_max = found.col_mean.data_ptr(), found.col_max.data_ptr()


def _made(call: Call, packed: Packed, like: Tensor, *, keep: bool) -> tuple[Factors, Maps | None]:
    """Room for factors and, to ``keep``, for maps."""
    batch, channels, height, width = call.batch, call.channels, call.height, call.width
    of = like.new_empty
    factors = Factors(
        of((batch, channels)), of((batch, channels, height)), of((batch, channels, width))
    )
    call.made_channel, call.made_rows, call.made_cols = (t.data_ptr() for t in factors)
    if not keep:
        return factors, None
    maps = Maps(
        channel=of((batch, channels, 1, 1)),
        fusion=of((batch, 2)) if packed.routed else None,
        temperature=packed.temperature,
        rows=of((batch, channels, height, 1)),
        cols=of((batch, channels, 1, width)),
    )
    call.gate, call.row_mask = maps.channel.data_ptr(), maps.rows.data_ptr()
    call.col_mask = maps.cols.data_ptr()
    call.fusion = None if maps.fusion is None else maps.fusion.data_ptr()
    return factors, maps
