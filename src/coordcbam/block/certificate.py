"""What a config guarantees, in closed form, and what it can never do."""

import dataclasses

from coordcbam._support.errors import shown
from coordcbam._support.permanent import permanent
from coordcbam.block.config import BlockConfig
from coordcbam.block.options import OptionTypeError
from coordcbam.block.ranges import gain_at_start, gain_range, resolved_r_min
from coordcbam.block.remarks import coordinate_clamps, remarks


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class GainCertificate:
    """Bounds of the gain ``out / x`` of every element, and what the rescue can do about them.

    ``clamps`` tells of each clamp that the config has, by flag, whether it can ever bind; ``idle``
    says of every option whose value changes nothing why, ``notes`` whatever else is odd.
    """

    gain_min: float
    gain_max: float
    gain_at_start: float
    r_min: float | None  # None: no rescue
    rescue_can_fire: bool  # because the block suppresses its signal
    can_fire_falsely: bool  # although every gain is above r_min
    clamps: dict[str, bool]
    idle: dict[str, str]
    notes: tuple[str, ...]

    @property
    def scale_clamp_can_bind(self) -> bool:
        """Whether either end of the coordinate clamp can ever act."""
        return any(on for flag, on in self.clamps.items() if flag.startswith("coord_"))

    def __str__(self) -> str:
        """The bounds and the rescue's reach, in three lines."""
        if self.r_min is None:
            rescue = "no rescue"
        else:
            can = "can" if self.rescue_can_fire else "cannot"
            falsely = "can" if self.can_fire_falsely else "cannot"
            rescue = (
                f"the rescue {can} fire for suppression (r_min {self.r_min:.3f}) "
                f"and {falsely} fire falsely"
            )
        clamps = ", ".join(
            f"{flag} {'can bind' if on else 'never binds'}" for flag, on in self.clamps.items()
        )
        return (
            f"gain in [{self.gain_min:.3f}, {self.gain_max:.3f}], "
            f"{self.gain_at_start:.3f} at the start\n{rescue}\nclamps: {clamps or 'none'}"
        )


def certify(config: BlockConfig) -> GainCertificate:
    """The certificate of ``config``; holds for all weights and inputs, up to rounding.

    Raises:
        OptionTypeError: not a ``BlockConfig``.

    >>> print(certify(BlockConfig.step3()))
    gain in [0.567, 1.870], 1.000 at the start
    the rescue can fire for suppression (r_min 0.783) and cannot fire falsely
    clamps: ca_t_min never binds, ca_t_max never binds, coord_scale_min never binds, \
coord_scale_max can bind
    >>> certify(BlockConfig.step2()).rescue_can_fire
    False
    """
    if not isinstance(config, BlockConfig):
        raise OptionTypeError(f"config={shown(config)}: expected a BlockConfig, e.g. .step3()")
    gain, rescue = gain_range(config), config.rescue
    acts = rescue is not None and config.mix.residual and rescue.rescue_mode != "watch"
    r_min = resolved_r_min(config) if acts else None
    return GainCertificate(
        gain_min=gain.low,
        gain_max=gain.high,
        gain_at_start=gain_at_start(config),
        r_min=r_min,
        rescue_can_fire=r_min is not None and gain.low < r_min,
        # A ratio of deviations is 0 wherever unequal gains level out the signal; an energy-weighted
        # mean of gains never leaves their range.
        can_fire_falsely=acts
        and rescue is not None
        and not rescue.targets
        and gain.low < gain.high,
        clamps=_clamps(config),
        idle=_idle(config),
        notes=tuple(remarks(config)),
    )


def _clamps(config: BlockConfig) -> dict[str, bool]:
    channel = config.channel
    found = {flag: binds for flag, (_, binds) in coordinate_clamps(config).items()}
    if channel.t_min is None or channel.t_max is None:
        return found
    if channel.learnable_temperature:
        soft = channel.t_map == "sigmoid"  # its ends are never reached
        return {"ca_t_min": not soft, "ca_t_max": not soft, **found}
    t = channel.temperature
    return {"ca_t_min": t < channel.t_min, "ca_t_max": t > channel.t_max, **found}


def _idle(config: BlockConfig) -> dict[str, str]:
    """The flags whose value changes nothing in this config, and why."""
    channel, coord, mix, rescue = config.channel, config.coord, config.mix, config.rescue
    learns, bounded = channel.learnable_temperature, channel.t_map == "sigmoid"
    summed = channel.fusion == "sum"
    log = coord.space == "log"
    clamped = coord.scale_min is not None
    found = {
        "ca_fusion_router_hidden": summed and "ca_fusion='sum' has no router",
        "ca_router_temperature": summed
        and channel.router_temperature is not None
        and "ca_fusion='sum' has no router",
        "ca_t_map": not learns and "the temperature is fixed",
        "coord_spatial_gate_beta": not coord.use_spatial_gate and "there is no spatial gate",
        "coord_beta": log and "coord_space='log' has its reach from coord_scale_max",
        "coord_scale_min": log and clamped and "coord_space='log' reaches 1 / coord_scale_max",
        "coord_head_init_std": mix.init == "identity"
        and coord.head_init_std is not None
        and "init='identity' starts the heads at 0",
        "alpha_init": not mix.residual and "residual=False has no mix",
        "learnable_alpha": not mix.residual and "residual=False has no mix",
    }
    if not (learns and bounded):  # the ends of a sigmoid map act without binding
        found |= {flag: not on and "it never binds" for flag, on in _clamps(config).items()}
    if rescue is not None:
        mode = rescue.rescue_mode if mix.residual else "watch"
        found |= {
            "r_min": mode == "watch" and "nothing acts on it",
            "min_rescue_ratio": mode != "ratio_floor" and "only 'ratio_floor' reads it",
            "alpha_eff_min": mode != "alpha_floor" and "only 'alpha_floor' reads it",
        }
    return {flag: reason for flag, reason in found.items() if reason}
