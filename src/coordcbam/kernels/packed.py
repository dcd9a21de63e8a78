"""Weights as the C library reads them: the structures of csrc/call.h, and how they are filled."""

import ctypes
import dataclasses
import functools
import math

import torch
from torch import Tensor

from coordcbam.kernels import cpu
from coordcbam.kernels.passes import Factors, Shape
from coordcbam.kernels.side import AxisWeights, GroupNorm, Linear, Norm, SideWeights, leaves

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


class Call(cpu._Job):
    """What a forward or the side nets are given."""

    _fields_ = (
        ("side", ctypes.c_void_p),
        *((f"made_{name}", ctypes.c_void_p) for name in Factors._fields),
        *((name, ctypes.c_void_p) for name in ("gate", "fusion", "row_mask", "col_mask")),
        ("totals", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
    )


class _AxisSlopes(ctypes.Structure):
    _fields_ = (
        ("into", _Linear),
        ("head", _Linear),
        ("taps", ctypes.c_void_p),
        ("strength", ctypes.c_void_p),
    )


class Slopes(ctypes.Structure):
    """What the side nets backwards are given, and where their results go."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in Factors._fields),
        *((name, ctypes.c_void_p) for name in ("mean", "peak", "row", "col")),
        *((name, _Linear) for name in ("fc1", "fc2", "first", "last", "refine")),
        ("temperature", ctypes.c_void_p),
        ("axes", _AxisSlopes * 2),
        ("norms", _Linear * 2),
        ("groups", ctypes.c_int64),
        ("step", ctypes.c_int64),
    )


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
    if any(len(axis.into) > 1 for axis in (coord.rows, coord.cols)):
        return "a mixer and the projection are not merged"
    for tensor in leaves(side).values():
        if tensor.device.type != "cpu":
            return f"a weight is on {tensor.device}, not on the CPU"
        if tensor.dtype != torch.float32:
            return f"a weight is {tensor.dtype}, not torch.float32"
    library = cpu._library()
    return library if isinstance(library, str) else mismatch(library)


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
        into=_linear(axis.into[0], kept),
        head=_linear(axis.head, kept),
        taps=_held(axis.taps, kept),
        strength=_held(axis.strength, kept),
        reach=axis.taps.shape[1] // 2,
    )


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


@functools.cache
def mismatch(library: ctypes.CDLL) -> str | None:
    """Why the library is of another version than this file; else its entries are ready."""
    try:
        for name, kind in (("call", Call), ("side", _Side), ("slopes", Slopes)):
            size = getattr(library, f"coordcbam_{name}_size")
            size.restype = ctypes.c_int64
            if size() != ctypes.sizeof(kind):
                return "the library is of another version; reinstall coordcbam"
        for name in ("whole", "side", "totals", "slopes"):
            entry = getattr(library, f"coordcbam_{name}")
            entry.argtypes = [ctypes.POINTER(Call), ctypes.c_int64, ctypes.c_int64]
    except AttributeError as error:
        return f"the library is of another version: {error}"
    return None
