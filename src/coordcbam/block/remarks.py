"""What is odd about a config: values that act otherwise than their names suggest, in words."""

import math
from typing import NamedTuple

from coordcbam.block.config import BlockConfig

_EDGE = 1e-6  # the notebook clamps an initial alpha this far inside (0, 1)


class Range(NamedTuple):
    """The least and the greatest factor a gate can be."""

    low: float
    high: float

    def times(self, other: "Range") -> "Range":
        """The range of a product."""
        ends = [a * b for a in self for b in other]
        return Range(min(ends), max(ends))


def channel_range(config: BlockConfig) -> Range:
    """Reachable channel scale ``1 + beta * (gate - 1)`` for a gate in [0, 1].

    >>> channel_range(BlockConfig.step2()), channel_range(BlockConfig.step1())
    (Range(low=0.65, high=1.0), Range(low=0.0, high=1.0))
    """
    return _softened(Range(0.0, 1.0), config.channel.beta)


def coordinate_range(config: BlockConfig, *, clamped: bool = True) -> Range:
    """Reachable coordinate scale, masks and their strengths anywhere in [0, 1].

    >>> coordinate_range(BlockConfig.step2())
    Range(low=0.65, high=1.0)
    """
    low, high = _softened(Range(0.0, 1.0), config.coord.beta)
    if clamped and config.coord.scale_min is not None and config.coord.scale_max is not None:
        low = min(max(low, config.coord.scale_min), config.coord.scale_max)
        high = min(max(high, config.coord.scale_min), config.coord.scale_max)
    return Range(low, high)


def gain_range(config: BlockConfig) -> Range:
    """Reachable gain ``out / x`` of every element, all gates at their worst, before the rescue.

    >>> low, high = gain_range(BlockConfig.step2())
    >>> round(low, 4), high
    (0.5669, 1.0)
    """
    gain = channel_range(config).times(coordinate_range(config))
    if config.coord.use_spatial_gate:
        gain = gain.times(_softened(Range(0.0, 1.0), config.coord.spatial_gate_beta))
    if not config.mix.residual:
        return gain
    if config.mix.learnable_alpha:
        return Range(min(gain.low, 1.0), max(gain.high, 1.0))
    alpha = min(max(config.mix.alpha_init, _EDGE), 1.0 - _EDGE)
    return Range(1.0 + alpha * (gain.low - 1.0), 1.0 + alpha * (gain.high - 1.0))


def remarks(config: BlockConfig) -> list[str]:
    """One sentence for everything about ``config`` that a user would not expect.

    >>> for line in remarks(BlockConfig.from_notebook(beta_ca=1.5)):
    ...     print(line)
    ... # doctest: +ELLIPSIS
    beta_ca=1.5: a closed channel gate multiplies by -0.5, which flips the sign...
    """
    return [*_gates(config), *_temperature(config), *_alphas(config), *_rescue(config)]


def _softened(gate: Range, beta: float | None) -> Range:
    if beta is None:
        return gate
    ends = [1.0 + beta * (end - 1.0) for end in gate]
    return Range(min(ends), max(ends))


def _gates(config: BlockConfig) -> list[str]:
    lines = []
    named = (
        ("beta_ca", config.channel.beta, "channel gate", channel_range(config)),
        ("coord_beta", config.coord.beta, "coordinate gate", coordinate_range(config)),
    )
    for name, beta, gate, reach in named:
        if reach.low < 0:
            lines.append(
                f"{name}={beta:g}: a closed {gate} multiplies by {reach.low:g}, "
                "which flips the sign"
            )
    if config.coord.beta < 0:
        lines.append(f"coord_beta={config.coord.beta:g}: a closed coordinate gate amplifies")
    coord = config.coord
    if coord.scale_min is not None and coord.scale_max is not None:
        low, high = coordinate_range(config, clamped=False)
        for name, value, binds in (
            ("coord_scale_min", coord.scale_min, low < coord.scale_min),
            ("coord_scale_max", coord.scale_max, high > coord.scale_max),
        ):
            if not binds:
                lines.append(
                    f"{name}={value:g} can never act: the coordinate scale stays in "
                    f"[{low:g}, {high:g}]"
                )
    return lines


def _temperature(config: BlockConfig) -> list[str]:
    channel = config.channel
    t, low, high = channel.temperature, channel.t_min, channel.t_max
    lines = []
    if low is not None and high is not None:
        if not channel.learnable_temperature and not low <= t <= high:
            lines.append(
                f"ca_temperature={t:g} lies outside the clamp: {min(max(t, low), high):g} is used"
            )
        if channel.learnable_temperature and low == high:
            lines.append(f"ca_t_min=ca_t_max={low:g}: a learnable temperature cannot move")
        elif channel.learnable_temperature and t >= high:
            lines.append(
                f"ca_temperature={t:g} starts at the clamp {high:g}: its gradient is 0 and it stays"
            )
    elif channel.learnable_temperature and math.exp(min(t, 700.0)) > 3.4e38:
        lines.append(f"ca_temperature={t:g} learnable: its parameter is infinite in float32")
    return lines


def _alphas(config: BlockConfig) -> list[str]:
    lines = [
        f"{name}={value:g} lies outside (0, 1): it is clamped to {min(max(value, 0.0), 1.0):g} "
        "less a margin of 1e-6"
        for name, value in (
            ("alpha_init", config.mix.alpha_init),
            ("coord_init_alpha", config.coord.init_alpha),
        )
        if not _EDGE <= value <= 1.0 - _EDGE
    ]
    if not config.mix.residual:
        idle = ["alpha_init"]
        idle += ["learnable_alpha"] if config.mix.learnable_alpha else []
        idle += ["monitor and rescue"] if config.rescue is not None else []
        lines.append(f"residual=False: {', '.join(idle)} have no effect")
    return lines


def _rescue(config: BlockConfig) -> list[str]:
    rescue, mix = config.rescue, config.mix
    if rescue is None or not mix.residual:
        return []
    lines = []
    if not rescue.monitor:
        lines.append(
            "monitor=False: nothing is measured and the rescue is off; inserting turns it on"
        )
    low = gain_range(config).low
    if low >= rescue.r_min:
        lines.append(
            f"the rescue cannot fire for suppression: every gain is at least {low:.3f}, "
            f"r_min is {rescue.r_min:g}; a std ratio can still fall under it where channel means "
            "dominate, and that is a false alarm"
        )
    lines.append(
        "eval uses alpha where training uses alpha_eff: while the rescue acts, they differ"
    )
    alpha = min(max(mix.alpha_init, _EDGE), 1.0 - _EDGE)
    if rescue.rescue_mode == "alpha_floor":
        if rescue.alpha_eff_min > alpha:
            lines.append(
                f"alpha_eff_min={rescue.alpha_eff_min:g} lies above alpha={alpha:g}: "
                "'alpha_floor' strengthens the block, also a healthy one"
            )
        elif rescue.alpha_eff_min > alpha * rescue.min_rescue_ratio:
            lines.append(
                f"'alpha_floor' is the milder mode here: it stops at {rescue.alpha_eff_min:g}, "
                f"'ratio_floor' at {alpha * rescue.min_rescue_ratio:g}"
            )
    lines.append(
        "r_ema moves once per forward (also under gradient accumulation), and a batch without "
        "variance counts as suppressed"
    )
    return lines
