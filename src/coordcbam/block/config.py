"""The block's options and presets."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from coordcbam._support.errors import UsageError, nearest
from coordcbam._support.permanent import permanent
from coordcbam.block.options import (
    Options,
    OptionTypeError,
    OptionValueError,
    Rule,
    option,
    rules,
    unknown_option,
)

POSITIVE: Any = (0.0, False)
ONE_OR_MORE: Any = (1, True)
UNIT: Any = {"low": (0.0, True), "high": (1.0, True)}


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelConfig(Options):
    """Options of the channel gate ``sigmoid(z / T)``, applied as ``1 + beta * (gate - 1)``.

    >>> ChannelConfig(gate="tanh")
    Traceback (most recent call last):
        ...
    coordcbam.block.options.OptionValueError: ChannelConfig.gate='tanh': expected one of \
'sigmoid', 'hardsigmoid' (notebook: ca_gate)
    """

    reduction: int = option(
        16, "ca_reduction", "hidden units are channels // reduction", low=ONE_OR_MORE
    )
    min_hidden: int = option(4, "ca_min_hidden", "fewest hidden units")
    fusion: Literal["softmax", "sum"] = option(
        "softmax",
        "ca_fusion",
        "how the average and the maximum branch join: weighted by a router, or summed",
        choices=("softmax", "sum"),
    )
    gate: Literal["sigmoid", "hardsigmoid"] = option(
        "sigmoid",
        "ca_gate",
        "squashing function",
        choices=("sigmoid", "hardsigmoid"),
        any_case=True,
    )
    temperature: float = option(
        0.9, "ca_temperature", "divides the gate's logits; larger is softer", low=POSITIVE
    )
    act: Literal["relu", "silu"] = option(
        "relu",
        "ca_act",
        "activation between the two layers",
        choices=("relu", "silu"),
        any_case=True,
    )
    fusion_router_hidden: int = option(
        16, "ca_fusion_router_hidden", "hidden units of the router; 1 or more with fusion='softmax'"
    )
    learnable_temperature: bool = option(
        False, "learnable_temperature", "train the temperature (softplus of a parameter)"
    )
    t_min: float | None = option(
        0.5, "ca_t_min", "least temperature; None: not clamped", low=POSITIVE, optional=True
    )
    t_max: float | None = option(
        3.0, "ca_t_max", "greatest temperature; None: not clamped", low=POSITIVE, optional=True
    )
    router_temperature: float | None = option(
        1.5,
        "ca_router_temperature",
        "divides the router's logits; None: not divided",
        low=POSITIVE,
        optional=True,
    )
    beta: float | None = option(
        0.35,
        "beta_ca",
        "strength of the channel gate; None: the gate itself multiplies",
        low=(0.0, True),
        optional=True,
    )

    def _check_together(self) -> None:
        self._pair("t_min", "t_max")
        if self.fusion == "softmax" and self.fusion_router_hidden < 1:
            raise OptionValueError(
                f"ChannelConfig.fusion_router_hidden={self.fusion_router_hidden}: expected an "
                "integer >= 1 with fusion='softmax' (notebook: ca_fusion_router_hidden)"
            )


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordConfig(Options):
    """Options of the row and column gates, applied as ``clamp(1 + beta * (s_h * s_w - 1))``."""

    reduction: int = option(
        32, "coord_reduction", "bottleneck width is channels // reduction", low=ONE_OR_MORE
    )
    min_mid_channels: int = option(8, "coord_min_mid", "least bottleneck width (never under 8)")
    act: Literal["hswish", "relu", "silu"] = option(
        "hswish",
        "coord_act",
        "activation in the bottleneck",
        choices=("hswish", "relu", "silu"),
        any_case=True,
    )
    init_alpha: float = option(
        0.7, "coord_init_alpha", "initial strength of each mask, clamped into (0, 1)"
    )
    learnable_alpha: bool = option(True, "coord_learnable_alpha", "train the masks' strengths")
    beta: float = option(0.35, "coord_beta", "strength of the coordinate gate")
    dilation: int = option(
        2, "coord_dilation", "dilation of the second depthwise tap", low=ONE_OR_MORE
    )
    norm: Literal["gn", "bn", "none"] = option(
        "gn",
        "coord_norm",
        "normalisation in the bottleneck",
        choices=("gn", "bn", "none"),
        any_case=True,
    )
    use_spatial_gate: bool = option(
        False, "coord_use_spatial_gate", "add a full-resolution spatial gate"
    )
    spatial_gate_beta: float = option(
        0.35, "coord_spatial_gate_beta", "strength of the spatial gate"
    )
    scale_min: float | None = option(
        0.6,
        "coord_scale_min",
        "least coordinate scale; None: no clamp",
        low=POSITIVE,
        optional=True,
    )
    scale_max: float | None = option(
        1.6,
        "coord_scale_max",
        "greatest coordinate scale; None: no clamp",
        low=POSITIVE,
        optional=True,
    )
    head_init_std: float | None = option(
        0.01,
        "coord_head_init_std",
        "standard deviation of the mask heads at start, bias 0; None: PyTorch's default",
        low=POSITIVE,
        optional=True,
    )

    def _check_together(self) -> None:
        self._pair("scale_min", "scale_max")


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class MixConfig(Options):
    """Options of the residual mix ``out = x + alpha * (y - x)``."""

    residual: bool = option(True, "residual", "mix with the input; False: out = y")
    alpha_init: float = option(0.75, "alpha_init", "initial alpha, clamped into (0, 1)")
    learnable_alpha: bool = option(False, "learnable_alpha", "train alpha")


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class RescueConfig(Options):
    """Options of the monitor and of the rescue, which weakens a block that suppresses too much."""

    monitor: bool = option(False, "monitor", "measure the signal and act on it while training")
    r_min: float = option(
        0.45, "r_min", "ratio std(out)/std(x) under which the rescue acts", low=POSITIVE
    )
    ema_momentum: float = option(
        0.95, "ema_momentum", "momentum of the ratio's average", low=POSITIVE, high=(1.0, False)
    )
    min_rescue_ratio: float = option(
        0.2, "min_rescue_ratio", "ratio_floor: alpha_eff is at least this times alpha", **UNIT
    )
    alpha_eff_min: float = option(
        0.2,
        "alpha_eff_min",
        "alpha_floor: alpha_eff is at least this (it can exceed alpha, and is the milder mode)",
        **UNIT,
    )
    rescue_mode: Literal["ratio_floor", "alpha_floor"] = option(
        "ratio_floor",
        "rescue_mode",
        "what bounds the rescue from below",
        choices=("ratio_floor", "alpha_floor"),
    )


_PARTS: dict[str, type[Options]] = {
    "channel": ChannelConfig,
    "coord": CoordConfig,
    "mix": MixConfig,
    "rescue": RescueConfig,
}


def all_rules() -> Iterator[tuple[str, Rule]]:
    """Every option of the block as ``(part, rule)``, in the order of the documentation."""
    for part, options in _PARTS.items():
        for rule in rules(options):
            yield part, rule


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """All options of the block; a mechanism that is absent is None, not a neutral number.

    >>> BlockConfig.step1().channel.beta is None, BlockConfig.step2().channel.beta
    (True, 0.35)
    >>> BlockConfig.from_notebook(beta_ca=0.5).channel.beta
    0.5
    """

    channel: ChannelConfig = dataclasses.field(default_factory=ChannelConfig)
    coord: CoordConfig = dataclasses.field(default_factory=CoordConfig)
    mix: MixConfig = dataclasses.field(default_factory=MixConfig)
    rescue: RescueConfig | None = dataclasses.field(default_factory=RescueConfig)

    def __post_init__(self) -> None:
        """Check that each part is of its own class."""
        for part, options in _PARTS.items():
            value = getattr(self, part)
            if not isinstance(value, options) and not (part == "rescue" and value is None):
                raise OptionTypeError(
                    f"BlockConfig.{part}={value!r}: expected a {options.__name__}"
                )

    @classmethod
    def step1(cls) -> "BlockConfig":
        """The notebook's baseline: no clamps, no softening, no calm start, no rescue."""
        return cls.from_notebook(step=1)

    @classmethod
    def step2(cls) -> "BlockConfig":
        """The notebook's stabilised block."""
        return cls()

    @classmethod
    def preset(cls, name: str) -> "BlockConfig":
        """A preset by its name, ``'step1'`` or ``'step2'``."""
        if name not in PRESETS:
            raise UsageError(f"preset {name!r}: expected one of {nearest(name, PRESETS)}")
        made: BlockConfig = getattr(cls, name)()
        return made

    @property
    def step(self) -> Literal[1, 2] | None:
        """1 or 2 where the notebook can express this config, None for a mixture of the two."""
        absent = [
            getattr(getattr(self, part), rule.name) is None
            for part, rule in all_rules()
            if rule.optional
        ]
        if self.rescue is None and all(absent):
            return 1
        return 2 if self.rescue is not None and not any(absent) else None

    @property
    def name(self) -> str:
        """``'step1'``, ``'step2'`` or ``'mixed'``: whose mechanisms this config has."""
        return f"step{self.step}" if self.step else "mixed"

    @classmethod
    def from_notebook(cls, step: int = 2, **arguments: Any) -> "BlockConfig":
        """Build from the notebook's argument names (``ca_reduction``, ``beta_ca``, ...).

        Raises:
            OptionTypeError: an argument that the notebook's step does not have.
        """
        if step not in (1, 2):
            raise OptionValueError(f"step={step!r}: expected 1 or 2")
        known = {
            rule.notebook: (part, rule.name)
            for part, rule in all_rules()
            if step == 2 or not (rule.optional or part == "rescue")
        }
        parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
        for name, value in arguments.items():
            if name not in known:
                raise unknown_option(name, known)
            part, field = known[name]
            parts[part][field] = value
        return cls(
            channel=ChannelConfig.of_step(step, parts["channel"]),
            coord=CoordConfig.of_step(step, parts["coord"]),
            mix=MixConfig.of_step(step, parts["mix"]),
            rescue=RescueConfig.of_step(step, parts["rescue"]) if step == 2 else None,
        )

    def to_notebook(self) -> dict[str, Any]:
        """The notebook's arguments for this config; absent mechanisms have none.

        Raises:
            UsageError: a mixture of step 1 and step 2, which neither notebook class can express.
        """
        if self.step is None:
            raise UsageError(
                "this config mixes absent and present step-2 mechanisms: the notebook has no such "
                "block; use CoordCBAM(channels, config)"
            )
        values = (
            (rule.notebook, getattr(getattr(self, part), rule.name))
            for part, rule in all_rules()
            if getattr(self, part) is not None
        )
        return {name: value for name, value in values if value is not None}

    def replace(self, **options: Any) -> "BlockConfig":
        """A copy with some options changed, by notebook name; None makes a mechanism absent."""
        known = {rule.notebook: (part, rule) for part, rule in all_rules()}
        parts = self.to_dict()
        for name, value in options.items():
            if name not in known:
                raise unknown_option(name, known)
            part, rule = known[name]
            if parts[part] is None:
                raise OptionTypeError(f"{name}={value!r}: this config has no {part}; use step2")
            parts[part][rule.name] = value
        return type(self).from_dict(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings: for JSON and for a host's model file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BlockConfig":
        """The inverse of :meth:`to_dict`; missing options take step 2's defaults."""
        if not isinstance(values, Mapping):
            raise OptionTypeError(f"config={values!r}: expected a mapping of {', '.join(_PARTS)}")
        made: dict[str, Any] = {}
        for part, options in values.items():
            if part not in _PARTS:
                raise unknown_option(part, _PARTS)
            if options is None and part == "rescue":
                made[part] = None
            elif isinstance(options, Mapping):
                made[part] = _PARTS[part].from_mapping(options)
            else:
                raise OptionTypeError(f"config[{part!r}]={options!r}: expected a mapping")
        return cls(**made)


PRESETS = ("step1", "step2")
