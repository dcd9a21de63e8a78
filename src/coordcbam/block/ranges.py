"""Closed-form bounds of the block's gain ``out / x``, element by element."""

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import torch

from coordcbam.block.bounded import MARGIN, NOTEBOOKS_MARGIN
from coordcbam.block.config import BlockConfig
from coordcbam.kernels.elementwise import factor


class Range(NamedTuple):
    """The least and the greatest factor something can be."""

    low: float
    high: float

    def times(self, other: "Range") -> "Range":
        """The range of a product."""
        return _spanned(a * b for a, b in product(self, other))

    def clamped(self, low: float, high: float) -> "Range":
        """The range after a clamp."""
        return Range(*(min(max(end, low), high) for end in self))

    def mixed(self, alpha: float) -> "Range":
        """The range of ``1 + alpha * (gain - 1)``."""
        return Range(*(1.0 + alpha * (end - 1.0) for end in self))


def channel_range(config: BlockConfig) -> Range:
    """Reachable channel factor, the gate anywhere in [0, 1].

    >>> channel_range(BlockConfig.step2()), channel_range(BlockConfig.step1())
    (Range(low=0.65, high=1.0), Range(low=0.0, high=1.0))
    """
    return _gate_range(config.channel.beta, config.channel.space)


def coordinate_range(config: BlockConfig, *, clamped: bool = True) -> Range:
    """Reachable coordinate factor, masks anywhere in [0, 1], learnable strengths as well.

    >>> coordinate_range(BlockConfig.step2())
    Range(low=0.65, high=1.0)
    """
    coord = config.coord
    strengths = (0.0, 1.0) if coord.learnable_alpha else (coordinate_strength(config),)
    if coord.space == "log":
        assert coord.scale_max is not None  # the options demand it in this space
        reach = coord.scale_max ** max(strengths)
        return Range(1.0 / reach, reach)
    # A mask of 0 and of 1 under the damping 1 - a * (1 - mask), or under 1 + a * (2 * mask - 1).
    ends = _spanned(
        1.0 + a * (mask - 1.0 if coord.space == "gate" else 2.0 * mask - 1.0)
        for a, mask in product(strengths, (0.0, 1.0))
    )
    both = ends.times(ends)
    reach = _spanned(1.0 + coord.beta * (end - 1.0) for end in both)
    if clamped and coord.scale_min is not None and coord.scale_max is not None:
        return reach.clamped(coord.scale_min, coord.scale_max)
    return reach


def gain_range(config: BlockConfig) -> Range:
    """Reachable gain ``out / x`` of every element, all gates at their worst, before the rescue.

    >>> low, high = gain_range(BlockConfig.step3())
    >>> round(low, 4), round(high, 4)
    (0.5669, 1.87)
    """
    gain = channel_range(config).times(coordinate_range(config))
    if config.coord.use_spatial_gate:
        gain = gain.times(_gate_range(config.coord.spatial_gate_beta, config.coord.space))
    unit = calibration(config)
    gain = Range(gain.low / unit, gain.high / unit)
    if not config.mix.residual:
        return gain
    if config.mix.learnable_alpha:
        return Range(min(gain.low, 1.0), max(gain.high, 1.0))
    return gain.mixed(mix_strength(config))


def gain_at_start(config: BlockConfig) -> float:
    """Gain of a fresh block whose gates are all at one half.

    >>> gain_at_start(BlockConfig.step3()), round(gain_at_start(BlockConfig.step2()), 3)
    (1.0, 0.744)
    """
    gain = _attended_at_start(config) / calibration(config)
    return 1.0 + mix_strength(config) * (gain - 1.0) if config.mix.residual else gain


def calibration(config: BlockConfig) -> float:
    """What ``init="calibrated"`` divides the attended signal by; 1 for the other starts.

    >>> step2 = BlockConfig.step2()
    >>> calibration(step2), round(calibration(step2.replace(init="calibrated")), 4)
    (1.0, 0.6582)
    """
    return _attended_at_start(config) if config.mix.init == "calibrated" else 1.0


def resolved_r_min(config: BlockConfig) -> float:
    """``r_min``, or where it is None ``(least gain + gain at the start) / 2``.

    That is reachable, and far from a healthy block.

    >>> round(resolved_r_min(BlockConfig.step3()), 2), resolved_r_min(BlockConfig.step2())
    (0.78, 0.45)
    """
    if config.rescue is not None and config.rescue.r_min is not None:
        return config.rescue.r_min
    # Under 1 also where no gate can move: then nothing is ever that low.
    return min((gain_range(config).low + gain_at_start(config)) / 2.0, 1.0 - 2.0**-10)


def mix_strength(config: BlockConfig) -> float:
    """Alpha at the start, inside the margin that the block keeps."""
    margin = MARGIN if config.mix.init == "identity" else NOTEBOOKS_MARGIN
    return min(max(config.mix.alpha_init, margin), 1.0 - margin)


def coordinate_strength(config: BlockConfig) -> float:
    """The masks' strength at the start, inside the margin that the block keeps."""
    margin = NOTEBOOKS_MARGIN if config.coord.space == "gate" else MARGIN
    return min(max(config.coord.init_alpha, margin), 1.0 - margin)


def _attended_at_start(config: BlockConfig) -> float:
    """Gain of the attended signal with every gate and mask at one half."""
    coord = config.coord
    gain = _factor_of(0.5, config.channel.beta, config.channel.space)
    if coord.space == "gate":
        mask = 1.0 - 0.5 * coordinate_strength(config)
        scale = 1.0 + coord.beta * (mask * mask - 1.0)
        if coord.scale_min is not None and coord.scale_max is not None:
            scale = min(max(scale, coord.scale_min), coord.scale_max)
        gain *= scale
    if coord.use_spatial_gate:
        gain *= _factor_of(0.5, coord.spatial_gate_beta, coord.space)
    return gain


def _gate_range(beta: float | None, space: str) -> Range:
    return _spanned(_factor_of(gate, beta, space) for gate in (0.0, 1.0))


def _factor_of(gate: float, beta: float | None, space: str) -> float:
    # On the CPU also where a block is only planned, on the meta device.
    return factor(torch.tensor(gate, dtype=torch.float64, device="cpu"), beta, space).item()


def _spanned(values: Iterable[float]) -> Range:
    found = list(values)
    return Range(min(found), max(found))
