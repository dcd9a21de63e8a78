"""What is odd about a config: values that act otherwise than their names suggest, in words."""

import math

from coordcbam.block.config import BlockConfig
from coordcbam.block.ranges import (
    channel_range,
    coordinate_range,
    gain_range,
    mix_strength,
    resolved_r_min,
)

_EDGE = 1e-6  # initial alphas are clamped at least this far inside (0, 1)


def remarks(config: BlockConfig) -> list[str]:
    """One sentence for everything about ``config`` that a user would not expect.

    >>> for line in remarks(BlockConfig.from_notebook(beta_ca=1.5)):
    ...     print(line)
    ... # doctest: +ELLIPSIS
    beta_ca=1.5: a closed channel gate multiplies by -0.5, which flips the sign...
    """
    return [*_gates(config), *_temperature(config), *_alphas(config), *_rescue(config)]


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
    low, high = coordinate_range(config, clamped=False)
    lines += [
        f"{name}={value:g} can never act: the coordinate scale stays in [{low:g}, {high:g}]"
        for name, (value, binds) in coordinate_clamps(config).items()
        if not binds
    ]
    return lines


def coordinate_clamps(config: BlockConfig) -> dict[str, tuple[float, bool]]:
    """Both ends of the coordinate clamp, by flag: their value and whether they can ever bind.

    >>> coordinate_clamps(BlockConfig.step3())
    {'coord_scale_min': (0.6, False), 'coord_scale_max': (1.6, True)}
    """
    coord = config.coord
    if coord.scale_min is None or coord.scale_max is None or coord.space == "log":
        return {}
    low, high = coordinate_range(config, clamped=False)
    return {
        "coord_scale_min": (coord.scale_min, low < coord.scale_min),
        "coord_scale_max": (coord.scale_max, high > coord.scale_max),
    }


def _temperature(config: BlockConfig) -> list[str]:
    channel = config.channel
    t, low, high = channel.temperature, channel.t_min, channel.t_max
    lines = []
    if low is not None and high is not None:
        if not channel.learnable_temperature and not low <= t <= high:
            lines.append(
                f"ca_temperature={t:g} lies outside the clamp: {min(max(t, low), high):g} is used"
            )
        if channel.t_map == "sigmoid":
            return lines  # it starts inside its ends and never stops
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
        "less a small margin"
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
    rescue = config.rescue
    if rescue is None or not config.mix.residual:
        return []
    lines = []
    if not rescue.monitor:
        lines.append(
            "monitor=False: nothing is measured and the rescue is off; inserting turns it on"
        )
    if rescue.rescue_mode == "watch":
        return [*lines, "rescue_mode='watch': the signal is measured and nothing acts on it"]
    low, r_min = gain_range(config).low, resolved_r_min(config)
    if low >= r_min:
        false_alarm = (
            ""
            if rescue.targets
            else "; a std ratio can still fall under it where channel means dominate, and that is "
            "a false alarm"
        )
        lines.append(
            f"the rescue cannot fire for suppression: every gain is at least {low:.3f}, "
            f"r_min is {r_min:g}{false_alarm}"
        )
    return lines if rescue.targets else [*lines, *_notebooks_rescue(config)]


def _notebooks_rescue(config: BlockConfig) -> list[str]:
    rescue, alpha = config.rescue, mix_strength(config)
    assert rescue is not None
    lines = ["eval uses alpha where training uses alpha_eff: while the rescue acts, they differ"]
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
