"""The block's options and presets."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from coordcbam._support.errors import UsageError, nearest, shown
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

SPACES = ("gate", "lin", "log")
POSITIVE: Any = (0.0, False)
ONE_OR_MORE: Any = (1, True)
UNIT: Any = {"low": (0.0, True), "high": (1.0, True)}


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelConfig(Options):
    """Options of the channel gate ``sigmoid(z / T)``, applied as ``1 + beta * (gate - 1)``.

    A centred space applies ``u = 2 * gate - 1`` instead, for which 1 is neutral and which can
    amplify: ``1 + beta * u`` in ``"lin"``, ``exp(log(1 + beta) * u)`` in ``"log"``.

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
    space: Literal["gate", "lin", "log"] = option(
        "gate",
        "ca_space",
        "what a gate stands for: a damping (the notebook's), or a factor centred on 1",
        choices=SPACES,
        ours=True,
    )
    t_map: Literal["softplus", "sigmoid"] = option(
        "softplus",
        "ca_t_map",
        "how a learnable temperature is bounded: softplus, then the clamp; or by a sigmoid "
        "between t_min and t_max, whose gradient never ends",
        choices=("softplus", "sigmoid"),
        ours=True,
    )

    def _check_together(self) -> None:
        self._pair("t_min", "t_max")
        if self.fusion == "softmax" and self.fusion_router_hidden < 1:
            self._refuse("fusion_router_hidden", "an integer >= 1 with fusion='softmax'")
        if self.space != "gate" and not (self.beta is not None and self.beta <= 1.0):
            self._refuse("beta", f"a number from 0 to 1 with space={self.space!r}")
        if self.t_map == "sigmoid" and self.t_min == self.t_max:
            self._refuse("t_map", "'softplus' unless t_min < t_max")


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordConfig(Options):
    """Options of the row and column gates, applied as ``clamp(1 + beta * (s_h * s_w - 1))``.

    Each mask has a strength a: ``s = (1 - a) + a * mask``. With ``u = 2 * mask - 1``, the centred
    space ``"lin"`` has ``s = 1 + a * u``; ``"log"`` multiplies by
    ``exp(log(scale_max) / 2 * (a_h * u_h + a_w * u_w))``, which needs neither beta nor clamp.
    """

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

    space: Literal["gate", "lin", "log"] = option(
        "gate",
        "coord_space",
        "what a mask stands for: a damping (the notebook's), or a factor centred on 1",
        choices=SPACES,
        ours=True,
    )

    def _check_together(self) -> None:
        self._pair("scale_min", "scale_max")
        if self.space == "gate":
            return
        for name in ("beta", "spatial_gate_beta"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                self._refuse(name, f"a number from 0 to 1 with space={self.space!r}")
        if self.space == "log" and not (self.scale_max is not None and self.scale_max > 1.0):
            self._refuse("scale_max", "a number > 1 with space='log', whose reach it is")


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class MixConfig(Options):
    """Options of the residual mix ``out = x + alpha * (y - x)``."""

    residual: bool = option(True, "residual", "mix with the input; False: out = y")
    alpha_init: float = option(0.75, "alpha_init", "initial alpha, clamped into (0, 1)")
    learnable_alpha: bool = option(False, "learnable_alpha", "train alpha")
    init: Literal["notebook", "calibrated", "identity"] = option(
        "notebook",
        "init",
        "how a fresh block acts: as drawn; divided by its gain at the start; or not at all, "
        "with its last layers at 0",
        choices=("notebook", "calibrated", "identity"),
        ours=True,
    )


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class RescueConfig(Options):
    """Options of the monitor and of the rescue, which weakens a block that suppresses too much.

    The notebook's two modes act in training, on an average of ``std(out) / std(x)``. ``"target"``
    acts alike in training, eval and export, on an average of ``<x, out> / <x, x>``, and lands on
    ``r_min``; ``"watch"`` measures as it does and never acts.
    """

    monitor: bool = option(False, "monitor", "measure the signal and act on it while training")
    r_min: float | None = option(
        0.45,
        "r_min",
        "ratio of output to input under which the rescue acts; None: half way between the least "
        "gain and the gain at the start",
        low=POSITIVE,
        derived=True,
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
    rescue_mode: Literal["ratio_floor", "alpha_floor", "target", "watch"] = option(
        "ratio_floor",
        "rescue_mode",
        "what bounds the rescue from below, or the rule itself",
        choices=("ratio_floor", "alpha_floor"),
        new_choices=("target", "watch"),
    )
    r_max: float | None = option(
        None,
        "r_max",
        "target: ratio above which the rescue acts; None: amplification is left alone",
        low=(1.0, False),
        optional=True,
        ours=True,
    )

    @property
    def targets(self) -> bool:
        """Whether the rule is ours (``"target"`` or ``"watch"``), not the notebook's."""
        return self.rescue_mode in ("target", "watch")

    def _check_together(self) -> None:
        if self.targets and self.r_min is not None and self.r_min >= 1.0:
            self._refuse("r_min", f"a number < 1 with rescue_mode={self.rescue_mode!r}")
        if self.r_max is not None and self.rescue_mode != "target":
            self._refuse("r_max", "None unless rescue_mode='target'")


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
                    f"BlockConfig.{part}={shown(value)}: expected a {options.__name__}"
                )
        centred = "gate" not in (self.channel.space, self.coord.space)
        if self.mix.init == "identity" and not centred:
            raise OptionValueError(
                "MixConfig.init='identity': expected 'lin' or 'log' for channel.space and "
                "coord.space, since a gate that starts at 1/2 damps (flag: init)"
            )
        if self.mix.init == "identity" and not self._neutral_is_inside_the_clamp():
            raise OptionValueError(
                f"CoordConfig.scale_min={self.coord.scale_min}, scale_max={self.coord.scale_max}: "
                "expected 1 between them with init='identity'"
            )

        if self.mix.init == "calibrated":
            self._check_calibration()

    def _check_calibration(self) -> None:
        """A start that keeps nothing, or turns the sign, cannot be divided by."""
        beta, coord = self.channel.beta, self.coord
        start = scale = spatial = 1.0  # what a centred gate starts at
        if self.channel.space == "gate":
            start = 0.5 if beta is None else 1.0 - 0.5 * beta
        if coord.space == "gate":
            mask = 1.0 - 0.5 * min(max(coord.init_alpha, 0.0), 1.0)
            scale = 1.0 + coord.beta * (mask * mask - 1.0)
            if coord.scale_min is not None and coord.scale_max is not None:
                scale = min(max(scale, coord.scale_min), coord.scale_max)
            spatial = 1.0 - 0.5 * coord.spatial_gate_beta if coord.use_spatial_gate else 1.0
        if start * scale * spatial < 2.0**-10 or min(start, scale, spatial) <= 0.0:
            raise OptionValueError(
                "MixConfig.init='calibrated': expected gates that keep something at the start, "
                f"these multiply by {start:g}, {scale:g} and {spatial:g} (flag: init)"
            )

    def _neutral_is_inside_the_clamp(self) -> bool:
        low, high = self.coord.scale_min, self.coord.scale_max
        return low is None or high is None or low <= 1.0 <= high

    @classmethod
    def step1(cls, **options: Any) -> "BlockConfig":
        """The notebook's baseline: no clamps, no softening, no calm start, no rescue.

        Every preset takes single options by flag, as :meth:`replace` does.
        """
        return cls.from_notebook(step=1).replace(**options)

    @classmethod
    def step2(cls, **options: Any) -> "BlockConfig":
        """The notebook's stabilised block.

        >>> BlockConfig.step2(init="calibrated").mix.init
        'calibrated'
        """
        return cls().replace(**options)

    @classmethod
    def step3(cls, *, space: Literal["lin", "log"] = "lin", **options: Any) -> "BlockConfig":
        """Ours: gates centred on 1, an exact identity at the start, a rescue that can act.

        Args:
            space: of every gate: ``"lin"`` is ``1 + beta * u``, ``"log"`` symmetric in factors.
            options: single options by flag.

        >>> BlockConfig.step3().coord.space, BlockConfig.step3().rescue.rescue_mode
        ('lin', 'target')
        """
        return cls(
            channel=ChannelConfig(space=space, t_map="sigmoid"),
            coord=CoordConfig(space=space),
            mix=MixConfig(init="identity"),
            rescue=RescueConfig(rescue_mode="target", r_min=None),
        ).replace(**options)

    @classmethod
    def preset(cls, name: str) -> "BlockConfig":
        """A preset by its name: ``'step1'``, ``'step2'`` or ``'step3'``."""
        if name not in PRESETS:
            expected = nearest(str(name), PRESETS)
            raise UsageError(f"preset {shown(name)}: expected one of {expected}")
        made: BlockConfig = getattr(cls, name)()
        return made

    @property
    def step(self) -> Literal[1, 2, 3] | None:
        """1 or 2 where the notebook can express this config, 3 where its mechanisms are all ours.

        None for a mixture.
        """
        values = [
            (rule, getattr(getattr(self, part), rule.name, None)) for part, rule in all_rules()
        ]
        absent = [value is None for rule, value in values if rule.optional and not rule.ours]
        new = [
            value not in (rule.default, None) if rule.ours else value in rule.new_choices
            for rule, value in values
        ]
        if self.rescue is None:
            return 1 if all(absent) and not any(new) else None
        if any(absent):
            return None
        if not any(new) and self.rescue.r_min is not None:
            return 2
        centred = "gate" not in (self.channel.space, self.coord.space)
        return 3 if centred and self.mix.init == "identity" and self.rescue.targets else None

    @property
    def name(self) -> str:
        """``'step1'`` to ``'step3'``, or ``'mixed'``: whose mechanisms this config has."""
        return f"step{self.step}" if self.step else "mixed"

    @classmethod
    def from_notebook(cls, step: int = 2, **arguments: Any) -> "BlockConfig":
        """Build from the notebook's argument names (``ca_reduction``, ``beta_ca``, ...).

        Raises:
            OptionTypeError: an argument that the notebook's step does not have.
        """
        if not isinstance(step, int) or isinstance(step, bool) or step not in (1, 2):
            raise OptionValueError(f"step={shown(step)}: expected 1 or 2")
        known = {
            rule.flag: (part, rule.name)
            for part, rule in all_rules()
            if not rule.ours and (step == 2 or not (rule.optional or part == "rescue"))
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
            UsageError: step 3 or a mixture, which neither notebook class can express.
        """
        if self.step not in (1, 2):
            raise UsageError(
                f"this config is {self.name}: the notebook has no such block; use "
                "CoordCBAM(channels, config)"
            )
        values = (
            (rule.flag, getattr(getattr(self, part), rule.name))
            for part, rule in all_rules()
            if not rule.ours and getattr(self, part) is not None
        )
        return {name: value for name, value in values if value is not None}

    def replace(self, **options: Any) -> "BlockConfig":
        """A copy with some options changed, by flag; None makes a mechanism absent."""
        if not options:
            return self
        known = {rule.flag: (part, rule) for part, rule in all_rules()}
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
        """The inverse of :meth:`to_dict`; missing options take step 2's values."""
        if not isinstance(values, Mapping):
            raise OptionTypeError(
                f"config={shown(values)}: expected a mapping of {', '.join(_PARTS)}"
            )
        made: dict[str, Any] = {}
        for part, options in values.items():
            if part not in _PARTS:
                raise unknown_option(part, _PARTS)
            if options is None and part == "rescue":
                made[part] = None
            elif isinstance(options, Mapping):
                made[part] = _PARTS[part].from_mapping(options)
            else:
                raise OptionTypeError(f"config[{part!r}]={shown(options)}: expected a mapping")
        return cls(**made)


PRESETS = ("step1", "step2", "step3")


def checked_config(config: BlockConfig | None) -> BlockConfig:
    """``config``, or step 3 where it is None.

    Raises:
        OptionTypeError: something else than a ``BlockConfig``.
    """
    if config is not None and not isinstance(config, BlockConfig):
        raise OptionTypeError(f"config={shown(config)}: expected a BlockConfig, e.g. .step3()")
    return BlockConfig.step3() if config is None else config
