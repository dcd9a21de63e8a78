"""A whole forward in one call of the C kernels: profile, side nets, scaling, sample by sample.

A sample's x is still in cache when it is scaled, and what lies between needs no tensor. The passes
are those of :mod:`coordcbam.kernels.cpu`, to the bit; the side nets are
:func:`coordcbam.kernels.side.attended` without minima.
"""

import ctypes
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam.kernels import cpu
from coordcbam.kernels.passes import Factors, Shape, Statistics
from coordcbam.kernels.side import AxisWeights, GroupNorm, Linear, Maps, Norm, SideWeights

_ACTS = {"relu": 0, "silu": 1, "hswish": 2}
_GATES = {"sigmoid": 0, "hardsigmoid": 1}
_SPACES = {"gate": 0, "lin": 1, "log": 2}


class _Linear(ctypes.Structure):
    """``Linear`` of csrc/call.h, as the classes below are the others of that file."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class _Norm(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_double),
        ("groups", ctypes.c_int64),
    )


class _Axis(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("into", "head")),
        *((name, ctypes.c_void_p) for name in ("taps", "strength")),
        ("reach", ctypes.c_int64),
    )


class _Side(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("fc1", "fc2", "first", "last", "refine")),
        ("temperature", ctypes.c_void_p),
        ("axes", _Axis * 2),
        ("norms", _Norm * 2),
        *((name, ctypes.c_int64) for name in ("channels", "hidden", "looked", "mid")),
        *((name, ctypes.c_int32) for name in ("act", "gate", "space", "softens")),
        *((name, ctypes.c_int32) for name in ("coord_act", "coord_space")),
        *((name, ctypes.c_float) for name in ("beta", "log_reach", "router_temperature", "unit")),
        ("coord_log_reach", ctypes.c_float),
    )


class _Call(cpu._Job):
    _fields_ = (
        ("side", ctypes.c_void_p),
        *((f"made_{name}", ctypes.c_void_p) for name in Factors._fields),
        *((name, ctypes.c_void_p) for name in ("gate", "fusion", "row_mask", "col_mask")),
        ("totals", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
    )


class Whole(NamedTuple):
    """A forward's output, and what else was asked for."""

    out: Tensor
    sums: Tensor | None  # (5, B) in float64, as the passes' measure has them
    found: Statistics | None
    maps: Maps | None
    factors: Factors | None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Packed:
    """The weights as C reads them: in place where they can be read so, else copies of that moment.

    Nothing in it changes, so threads may share it.
    """

    channels: int
    mid: int
    shape: Shape
    clamps: bool
    routed: bool
    temperature: Tensor
    side: _Side
    address: int  # of ``side``
    kept: tuple[Tensor, ...]  # whose memory ``side`` points to


def supports(side: SideWeights) -> str | None:
    """Why these kernels cannot run ``side``; None if they can."""
    channel, coord = side.channel, side.coord
    for words, word in (
        (_ACTS, channel.act),
        (_ACTS, coord.act),
        (_GATES, channel.gate),
        (_SPACES, channel.space),
        (_SPACES, coord.space),
    ):
        if word not in words:
            return f"{word!r} is none of {', '.join(words)}"
    for name in ("norm", "refine_norm"):
        norm = getattr(coord, name)
        if norm is not None and not isinstance(norm, GroupNorm):
            return f"{name} is {type(norm).__name__}, not a group norm"
    for tensor in _tensors(side):
        if tensor.device.type != "cpu":
            return f"a weight is on {tensor.device}, not on the CPU"
        if tensor.dtype != torch.float32:
            return f"a weight is {tensor.dtype}, not torch.float32"
    library = cpu._library()
    return library if isinstance(library, str) else _mismatch(library)


def pack(side: SideWeights) -> Packed:
    """The weights in a form that every forward of theirs can use.

    Raises:
        RuntimeError: :func:`supports` has a reason against them.
    """
    reason = supports(side)
    if reason is not None:
        raise RuntimeError(f"the CPU kernels cannot run these side nets: {reason}")
    kept: list[Tensor] = []
    channel, coord = side.channel, side.coord
    first, last = channel.router or (None, None)
    mid = coord.refine.weight.shape[0]
    space = 1.0 if channel.beta is None else 1.0 + channel.beta
    packed = _Side(
        fc1=_linear(channel.fc1, kept),
        fc2=_linear(channel.fc2, kept),
        first=_linear(first, kept),
        last=_linear(last, kept),
        refine=_linear(coord.refine, kept),
        temperature=_held(channel.temperature, kept),
        axes=(_Axis * 2)(_axis(coord.rows, kept), _axis(coord.cols, kept)),
        norms=(_Norm * 2)(_norm(coord.norm, kept), _norm(coord.refine_norm, kept)),
        channels=channel.fc1.weight.shape[1],
        hidden=channel.fc1.weight.shape[0],
        looked=0 if first is None else first.weight.shape[0],
        mid=mid,
        act=_ACTS[channel.act],
        gate=_GATES[channel.gate],
        space=_SPACES[channel.space],
        softens=channel.beta is not None,
        coord_act=_ACTS[coord.act],
        coord_space=_SPACES[coord.space],
        beta=0.0 if channel.beta is None else channel.beta,
        log_reach=math.log(space) if channel.space == "log" else 0.0,
        router_temperature=_or_one(channel.router_temperature),
        unit=channel.unit,
        coord_log_reach=math.log(math.sqrt(_or_one(coord.scale_max))),
    )
    return Packed(
        channels=packed.channels,
        mid=mid,
        shape=side.shape,
        clamps=side.shape.clamps,
        routed=first is not None,
        temperature=channel.temperature.detach(),
        side=packed,
        address=ctypes.addressof(packed),
        kept=tuple(kept),
    )


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


def _call(batch: int, size: tuple[int, int], packed: Packed, *, channels: int) -> _Call:
    """What both entries need."""
    if channels != packed.channels:
        raise ValueError(f"x has {channels} channels, the weights are for {packed.channels}")
    return _Call(batch, channels, *size, 0, cpu.WIDEST, side=packed.address)


def _apart(x: Tensor, call: _Call, *, sums: bool) -> None:
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


def _statistics(call: _Call, like: Tensor) -> Statistics:
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


def _point(call: _Call, found: Statistics) -> None:
    call.mean, call.peak = found.mean.data_ptr(), found.peak.data_ptr()
    call.row_mean, call.row_max = found.row_mean.data_ptr(), found.row_max.data_ptr()
    call.col_mean, call.col_max = found.col_mean.data_ptr(), found.col_max.data_ptr()


def _made(call: _Call, packed: Packed, like: Tensor, *, keep: bool) -> tuple[Factors, Maps | None]:
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


def _held(tensor: Tensor | None, kept: list[Tensor]) -> int | None:
    """Where C finds it, row by row."""
    if tensor is None:
        return None
    kept.append(tensor.detach().contiguous())
    return kept[-1].data_ptr()


def _linear(linear: Linear | None, kept: list[Tensor]) -> _Linear:
    return _Linear() if linear is None else _Linear(*(_held(t, kept) for t in linear))


def _norm(norm: Norm | None, kept: list[Tensor]) -> _Norm:
    if norm is None:
        return _Norm()
    assert isinstance(norm, GroupNorm)  # supports() has seen to it
    return _Norm(_held(norm.weight, kept), _held(norm.bias, kept), norm.eps, norm.groups)


def _axis(axis: AxisWeights, kept: list[Tensor]) -> _Axis:
    return _Axis(
        into=_linear(_merged(axis.into), kept),
        head=_linear(axis.head, kept),
        taps=_held(axis.taps, kept),
        strength=_held(axis.strength, kept),
        reach=axis.taps.shape[1] // 2,
    )


def _merged(layers: tuple[Linear, ...]) -> Linear:
    """Linear layers, one after the other, as one."""
    merged = layers[0]
    for layer in layers[1:]:
        bias = layer.bias
        if merged.bias is not None:
            through = layer.weight @ merged.bias
            bias = through if bias is None else bias + through
        merged = Linear(layer.weight @ merged.weight, bias)
    return merged


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def _tensors(side: SideWeights) -> Iterator[Tensor]:
    """Every tensor among the weights."""
    channel, coord = side.channel, side.coord
    linears = [channel.fc1, channel.fc2, *(channel.router or ()), coord.refine]
    yield channel.temperature
    for axis in (coord.rows, coord.cols):
        yield from (axis.taps, axis.strength)
        linears += [*axis.into, axis.head]
    norms = [n for n in (coord.norm, coord.refine_norm) if isinstance(n, GroupNorm)]
    for weight, bias in [*linears, *((n.weight, n.bias) for n in norms)]:
        yield from (t for t in (weight, bias) if t is not None)


@functools.cache
def _mismatch(library: ctypes.CDLL) -> str | None:
    """Why the library is of another version than this file; else its entries are ready."""
    try:
        for name, kind in (("call", _Call), ("side", _Side)):
            size = getattr(library, f"coordcbam_{name}_size")
            size.restype = ctypes.c_int64
            if size() != ctypes.sizeof(kind):
                return "the library is of another version; reinstall coordcbam"
        for name in ("whole", "side", "totals", "slopes"):
            entry = getattr(library, f"coordcbam_{name}")
            entry.argtypes = [ctypes.POINTER(_Call), ctypes.c_int64, ctypes.c_int64]
    except AttributeError as error:
        return f"the library is of another version: {error}"
    return None
