"""The side nets as the fast kernels run them: on statistics alone, neighbouring products made once.

Between a channel mixer and the shared bottleneck there is no nonlinearity, so both are one matrix,
and the plain and the dilated tap are one row of taps. Everything here is of size (B, C, H + W), and
every function is differentiable, in the statistics as in the weights.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coordcbam.kernels.elementwise import ACTIVATIONS, GATES, Elementwise, factor, masked
from coordcbam.kernels.passes import Factors, Shape, Statistics


class Maps(NamedTuple):
    """The gates as a person reads them, each in [0, 1]."""

    channel: Tensor  # (B, C, 1, 1)
    fusion: Tensor | None  # (B, 2): weights of average and maximum; None when they are summed
    temperature: Tensor  # ()
    rows: Tensor  # (B, C, H, 1)
    cols: Tensor  # (B, C, 1, W)


class Linear(NamedTuple):
    """``weight @ v + bias`` over the channels of v."""

    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelWeights:
    """From each channel's mean and maximum to its factor."""

    fc1: Linear
    fc2: Linear
    router: tuple[Linear, Linear] | None  # None: both branches are summed
    router_temperature: float | None
    temperature: Tensor  # ()
    act: str
    gate: str
    beta: float | None
    space: str
    unit: float  # divides the factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisWeights:
    """What rows and columns have each for themselves."""

    taps: Tensor  # (C, 2 * dilation + 1), around the middle
    into: tuple[Linear, ...]  # to the bottleneck: one product, or mixer and projection
    head: Linear  # from the bottleneck to the mask's logits
    strength: Tensor  # ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """Group norm over the H + W positions of a sample."""

    groups: int
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """``x``, (B, M, H + W), normalised."""
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)


Norm = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordWeights:
    """From row and column statistics to their factors."""

    rows: AxisWeights
    cols: AxisWeights
    norm: Norm | None  # after the projection; an evaluating batch norm is in the weights
    refine: Linear
    refine_norm: Norm | None
    act: str
    space: str
    scale_max: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SideWeights:
    """Both side nets, and how their factors make the gain."""

    channel: ChannelWeights
    coord: CoordWeights
    shape: Shape


class Minima(NamedTuple):
    """Needed where a channel factor may be negative, since that turns minima into maxima."""

    row_min: Tensor  # (B, C, H)
    col_min: Tensor  # (B, C, W)


def leaves(side: SideWeights) -> dict[str, Tensor]:
    """Every weight by name, the projections being merged."""
    return dict(_leaves(side))


def attended(
    found: Statistics,
    side: SideWeights,
    minima: Minima | None = None,
    hard: Elementwise = F.hardsigmoid,
) -> tuple[Maps, Factors]:
    """The maps as a person reads them, and the factors of the gain in the dtype of ``found``.

    Args:
        found: the statistics of x.
        side: the weights.
        minima: of rows and columns, where a channel's factor may be negative.
        hard: what gates by a hard sigmoid: PyTorch's own, or one that can be differentiated twice.
    """
    gate, fusion, channel = channel_factor(found, side.channel, hard)
    scaled = channel.to(found.mean.dtype)[..., None]
    h = _profile(found.row_mean, found.row_max, minima and minima.row_min, scaled)
    w = _profile(found.col_mean, found.col_max, minima and minima.col_min, scaled)
    rows, cols = masks(h, w, side.coord, hard)
    coord = side.coord
    factors = Factors(
        channel=_divided(channel, side.channel.unit),
        rows=masked(rows, coord.rows.strength.to(rows), coord.space, coord.scale_max),
        cols=masked(cols, coord.cols.strength.to(cols), coord.space, coord.scale_max),
    )
    maps = Maps(
        channel=gate[:, :, None, None],
        fusion=fusion,
        temperature=side.channel.temperature,
        rows=rows[..., None],
        cols=cols[:, :, None],
    )
    return maps, Factors(*(t.to(found.mean.dtype) for t in factors))


def channel_factor(
    found: Statistics, weights: ChannelWeights, hard: Elementwise
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gate (B, C), router weights (B, 2) or None, and the factor (B, C), not yet in its unit."""
    both = torch.cat([found.mean, found.peak])
    hidden = ACTIVATIONS[weights.act](F.linear(both, *weights.fc1))
    branches, batch = F.linear(hidden, *weights.fc2), found.mean.shape[0]
    mean, peak = branches[:batch], branches[batch:]
    fusion = None
    if weights.router is None:
        z = mean + peak
    else:
        first, last = weights.router
        looked = torch.cat([found.mean, found.peak], dim=1)
        logits = F.linear(F.relu(F.linear(looked, *first)), *last)
        if weights.router_temperature is not None:
            logits = logits / weights.router_temperature
        fusion = torch.softmax(logits, dim=1)
        z = fusion[:, :1] * mean + fusion[:, 1:] * peak
    bend = hard if weights.gate == "hardsigmoid" else GATES[weights.gate]
    gate = bend(z / weights.temperature)
    return gate, fusion, factor(gate, weights.beta, weights.space)


def masks(h: Tensor, w: Tensor, weights: CoordWeights, hard: Elementwise) -> tuple[Tensor, Tensor]:
    """Row and column masks, (B, C, H) and (B, C, W), of the profiles of the scaled signal."""
    act = ACTIVATIONS[weights.act]
    mid = torch.cat([_into(h, weights.rows), _into(w, weights.cols)], dim=2)
    mid = act(_normed(mid, weights.norm))
    mid = act(_normed(_mixed(mid, weights.refine), weights.refine_norm))
    height = h.shape[2]
    rows = _mixed(mid[..., :height], weights.rows.head)
    cols = _mixed(mid[..., height:], weights.cols.head)
    return hard(rows), hard(cols)


def _profile(mean: Tensor, top: Tensor, least: Tensor | None, scaled: Tensor) -> Tensor:
    """Half the mean and half the maximum of the signal times its channel's factor."""
    if least is None:
        return scaled * (0.5 * (mean + top))
    return 0.5 * (scaled * mean + torch.where(scaled >= 0.0, scaled * top, scaled * least))


def _into(profile: Tensor, axis: AxisWeights) -> Tensor:
    """Through the taps and into the bottleneck, (B, M, n)."""
    channels, taps = axis.taps.shape
    x = F.conv1d(profile, axis.taps[:, None], padding=taps // 2, groups=channels)
    for linear in axis.into:
        x = _mixed(x, linear)
    return x


def _mixed(x: Tensor, linear: Linear) -> Tensor:
    """Over the channels of (B, C, n): as a convolution, which needs no transposed copy."""
    return F.conv1d(x, linear.weight[..., None], linear.bias)


def _normed(x: Tensor, norm: Norm | None) -> Tensor:
    return x if norm is None else norm(x)


def _divided(channel: Tensor, unit: float) -> Tensor:
    return channel if unit == 1.0 else channel / unit


def _leaves(side: SideWeights) -> Iterator[tuple[str, Tensor]]:
    channel, coord = side.channel, side.coord
    yield "temperature", channel.temperature
    yield from _of_linear("fc1", channel.fc1)
    yield from _of_linear("fc2", channel.fc2)
    if channel.router is not None:
        yield from _of_linear("first", channel.router[0])
        yield from _of_linear("last", channel.router[1])
    for i, axis in enumerate((coord.rows, coord.cols)):
        (into,) = axis.into
        yield from _of_linear(f"axes.{i}.into", into)
        yield from _of_linear(f"axes.{i}.head", axis.head)
        yield f"axes.{i}.taps", axis.taps
        yield f"axes.{i}.strength", axis.strength
    yield from _of_linear("refine", coord.refine)
    for i, norm in enumerate((coord.norm, coord.refine_norm)):
        if isinstance(norm, GroupNorm):
            yield from _of_linear(f"norms.{i}", norm)


def _of_linear(name: str, layer: Linear | GroupNorm) -> Iterator[tuple[str, Tensor]]:
    for part in ("weight", "bias"):
        tensor = getattr(layer, part)
        if tensor is not None:
            yield f"{name}.{part}", tensor
