"""The residual mix around any attention, with its monitor and its rescue."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coordcbam._support.errors import shown
from coordcbam._support.permanent import permanent
from coordcbam.block.bounded import MARGIN, NOTEBOOKS_MARGIN, logit_of
from coordcbam.block.config import MixConfig, RescueConfig
from coordcbam.block.energy import Told, listen, spreads
from coordcbam.block.options import OptionTypeError
from coordcbam.block.state import WideBuffers
from coordcbam.block.stats import Stats, ratio, spread
from coordcbam.block.target import TALLY, share, share_of
from coordcbam.kernels import Signal
from coordcbam.kernels.cpu import number, readable

# By block and not in it, so that no copy and no checkpoint has them.
_RESTING: "WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], Tensor]]" = WeakKeyDictionary()
# The fields of Stats before alpha, and those after the maps.
Numbers: TypeAlias = Callable[[], tuple[list[Tensor], list[Tensor]]]


@permanent
class GuardedResidual(WideBuffers):
    """``out = x + alpha_eff * (y - x)`` for a shape-preserving ``y = f(x)``.

    By the rule ``"target"`` (and ``"watch"``, which never acts), a training forward with gradients
    measures ``rho = <x, out> / <x, x>`` before the rescue and adds it to a tally; ``commit_`` moves
    the average ``r_ema`` once an optimizer step. ``alpha_eff`` is alpha times what that average
    leaves of it, in every mode; an unusable batch is skipped and counted.

    By the notebook's rules, a training forward averages ``r = std(out) / std(x)`` into ``r_ema``
    itself and lowers its own ``alpha_eff`` while the average is under ``r_min``; eval uses alpha.
    One thing is not the notebook's: a ratio that is not finite leaves ``r_ema`` as it was.

    ``stats`` holds the numbers of the last measured batch (:class:`Stats`), NaN before the first.
    It is one vector on the block's device, in no checkpoint, written without a host sync.

    Source: notebook section 4C.
    """

    alpha_raw: Tensor
    r_ema: Tensor
    updates: Tensor
    skipped: Tensor
    stats: Tensor
    tally: Tensor

    _wide = ("r_ema", "stats")
    _own = ("tally",)
    bypassed = False
    calibrating = False
    # Whether a measured forward also writes ``stats``: a monitor asks only for those that it reads.
    detailed = True

    def __init__(self, mix: MixConfig | None, rescue: RescueConfig | None) -> None:
        super().__init__()
        for name, part, kind in (("mix", mix, MixConfig), ("rescue", rescue, RescueConfig)):
            if part is not None and not isinstance(part, kind):
                raise OptionTypeError(f"{name}={shown(part)}: expected a {kind.__name__} or None")
        if rescue is not None and rescue.targets and rescue.r_min is None:
            raise OptionTypeError("rescue.r_min=None: expected a number; CoordCBAM derives it")
        self.mix = mix  # None: alpha is 1, and only the rescue mixes
        self.rescue = rescue
        self.monitor = rescue is not None and rescue.monitor
        if mix is not None and mix.residual:
            raw = _start_of(mix)
            if mix.learnable_alpha:
                self.alpha_raw = nn.Parameter(raw)
            else:
                self.register_buffer("alpha_raw", raw)
        if rescue is not None:
            self.register_buffer("r_ema", torch.tensor(1.0))
        if self.targets:
            for counter in ("updates", "skipped"):
                self.register_buffer(counter, torch.tensor(0))
            self.tally = torch.zeros(TALLY)
        self.register_buffer(
            "stats", torch.full((len(Stats._fields),), torch.nan), persistent=False
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start alpha, the average and the counters afresh, as torch's layers do by this name."""
        if self.mix is not None and self.mix.residual:
            self.alpha_raw.copy_(_start_of(self.mix))
        starts = {"r_ema": 1.0, "updates": 0, "skipped": 0, "stats": math.nan}
        for name in starts.keys() & self._buffers.keys():
            getattr(self, name).fill_(starts[name])
        if self.targets:
            self.tally.zero_()

    @property
    def targets(self) -> bool:
        """Whether the rescue's rule is ours, not the notebook's."""
        return self.rescue is not None and self.rescue.targets

    @property
    def mixes(self) -> bool:
        """Whether the output is a mix with the input, so that a rescue can act."""
        return self.mix is None or self.mix.residual

    @property
    def momentum(self) -> float:
        """The momentum of ``r_ema``, in (0, 1); NaN without a rescue."""
        return math.nan if self.rescue is None else self.rescue.ema_momentum

    @property
    def monitor(self) -> bool:
        """Whether training forwards are measured (and, with a rescue, acted on)."""
        return self._monitor

    @monitor.setter
    def monitor(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise OptionTypeError(f"monitor={shown(on)}: expected True or False")
        self._monitor = on

    def after(self, inputs: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        """What a layer gives to which this block is attached: here, the block of its output."""
        attended: Tensor = self(output)
        return attended

    def alpha(self, like: Tensor) -> Tensor:
        """``sigmoid(alpha_raw)`` in the dtype of ``like``, 0-dim; 1 without one."""
        if self.mix is None or not self.mix.residual:
            return like.new_ones(())
        return torch.sigmoid(self.alpha_raw).to(device=like.device, dtype=like.dtype)

    def alpha_eff(self) -> Tensor:
        """The share of the mix that eval uses, 0-dim, in float32 or wider."""
        return self._at_rest(self.alpha(self.stats))

    def blend(
        self, signal: Signal, describe: Callable[[], list[Tensor]], *, traced: bool
    ) -> tuple[Tensor, Stats | None]:
        """The mix of a map and its attended signal, and its numbers if monitored or traced.

        Args:
            signal: the map x and what an attention makes of it.
            describe: gives the fields of :class:`Stats` from ``ca_mean`` to ``gain_mean``; called
                when needed.
            traced: measure even where the monitor does not (it never acts for a trace's sake).
        """
        acts = self._acts()
        if not (acts or traced or self._judges()):
            return signal.mixed(self._share(self._resting(signal))), None
        alpha = self.alpha(signal.x)
        observe = self._by_target if self.targets else self._by_notebook
        out, alpha_eff, numbers = observe(signal, alpha, acts=acts)
        if self.targets and not (self.detailed or traced):
            return out, None
        with torch.no_grad():
            first, last = numbers()
            fields = [*first, alpha, alpha_eff, *describe(), *last]
            vector = torch.stack([t.to(self.stats) for t in fields])
            if acts:
                self.stats.copy_(vector)
        return out, Stats(*vector.unbind()) if traced else None

    def _acts(self) -> bool:
        """Whether this forward is measured for the average."""
        if self.bypassed or not self.monitor:
            return False
        if self.targets:
            return self.calibrating or (self.training and torch.is_grad_enabled())
        return self.training

    def _share(self, alpha: Tensor) -> Tensor | None:
        """What a signal is mixed with; None where nothing is mixed."""
        return alpha if self.mixes else None

    def _by_target(
        self, signal: Signal, alpha: Tensor, *, acts: bool
    ) -> tuple[Tensor, Tensor, Numbers]:
        """The mix, ``alpha_eff`` and the numbers, by our rule."""
        out, alpha_eff, judges = None, alpha, self._judges() or self.calibrating
        if judges:
            found = signal.sums(exact=False)
        else:  # the average is known before: one pass measures and mixes
            alpha_eff = self._at_rest(alpha, eager=signal.eager)
            out, found = signal.measured(self._share(alpha_eff))
        with torch.no_grad():
            tally = self.tally if acts else None
            told = listen(found, signal.x, alpha, tally, eager=signal.eager)
            r_hat = self._expected(told)
        if out is None:
            alpha_eff = self._at_rest(alpha, r_hat)
            out = signal.mixed(self._share(alpha_eff))

        def numbers() -> tuple[list[Tensor], list[Tensor]]:
            return [*spreads(found, signal.x, alpha), r_hat], [told.rho, told.rms, self.skipped]

        return out, alpha_eff, numbers

    def _judges(self) -> bool:
        """Whether this forward needs its own numbers although they do not count."""
        return False

    def _expected(self, told: Told) -> Tensor:  # noqa: ARG002
        """What the block is expected to keep of this batch: the average before it."""
        return self.r_ema

    def _at_rest(
        self, alpha: Tensor, r_hat: Tensor | None = None, *, eager: bool = False
    ) -> Tensor:
        """``alpha_eff`` outside a measured forward; by the notebook's rules that is alpha."""
        rescue = self.rescue
        if rescue is None or rescue.rescue_mode != "target" or not self.mixes:
            return alpha
        assert rescue.r_min is not None  # whoever builds the block has derived it
        r_hat = self.r_ema if r_hat is None else r_hat
        if eager and readable(r_hat):
            return alpha * share_of(number(r_hat), rescue.r_min, rescue.r_max)
        return alpha * share(r_hat.detach(), rescue.r_min, rescue.r_max).to(alpha)

    def _resting(self, signal: Signal) -> Tensor:
        """The same for a signal; kept ready while the numbers it is made of are the same."""
        key = self._numbers(signal.x) if signal.eager else None
        if key is None:
            return self._at_rest(self.alpha(signal.x), eager=signal.eager)
        known = _RESTING.get(self)
        if known is None or known[0] != key:
            with torch.inference_mode(mode=False), torch.no_grad():
                alpha_eff = self._at_rest(self.alpha(signal.x), eager=True)
                known = _RESTING[self] = key, alpha_eff
        return known[1]

    def _numbers(self, x: Tensor) -> tuple[object, ...] | None:
        """What ``alpha_eff`` is made of, if that can be read and nobody wants its gradient."""
        raw: Tensor | None = self._parameters.get("alpha_raw")
        raw = self._buffers.get("alpha_raw") if raw is None else raw
        if raw is None or not readable(raw) or (raw.requires_grad and torch.is_grad_enabled()):
            return None
        r_ema = self._buffers.get("r_ema")
        if r_ema is not None and not readable(r_ema):
            return None
        kept = None if r_ema is None else number(r_ema)
        return number(raw), kept, x.dtype, x.device, self.mix, self.rescue

    def _by_notebook(
        self, signal: Signal, alpha: Tensor, *, acts: bool
    ) -> tuple[Tensor, Tensor, Numbers]:
        """The same by the notebook's rules, for which the average moves first."""
        with torch.no_grad():
            if signal.x.dtype == torch.float64:  # in which the notebook's own rounding shows
                std = [spread(t) for t in (signal.x, signal.mixed(None), signal.mixed(alpha))]
                first = [*std, ratio(std[1], std[0]), ratio(std[2], std[0])]
            else:
                first = spreads(signal.sums(exact=True), signal.x, alpha)
            if acts:
                self._average(first[-1])
            unknown = torch.full_like(first[-1], math.nan)
            r_ema = self.r_ema if self.rescue is not None else unknown
        alpha_eff = self._rescued(alpha) if acts else alpha

        def numbers() -> tuple[list[Tensor], list[Tensor]]:
            return [*first, r_ema], [unknown] * 3

        return signal.mixed(self._share(alpha_eff)), alpha_eff, numbers

    def _average(self, r_out: Tensor) -> None:
        """``r_ema <- m * r_ema + (1 - m) * r_out``, unless ``r_out`` is not finite."""
        if self.rescue is None or not self.mixes:
            return
        m = self.rescue.ema_momentum
        r_out = r_out.to(self.r_ema)
        self.r_ema.copy_(
            torch.where(r_out.isfinite(), self.r_ema * m + (1.0 - m) * r_out, self.r_ema)
        )

    def _rescued(self, alpha: Tensor) -> Tensor:
        """``alpha_eff``: alpha times ``r_ema / r_min`` when that is under 1, down to a floor."""
        rescue = self.rescue
        if rescue is None or rescue.r_min is None or not self.mixes:
            return alpha
        left = (self.r_ema.detach() / max(rescue.r_min, 1e-12)).clamp(0.0, 1.0).to(alpha)
        if rescue.rescue_mode == "ratio_floor":
            return alpha * left.clamp(rescue.min_rescue_ratio, 1.0)
        return (alpha * left).clamp(rescue.alpha_eff_min, 1.0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """A step-1 state has all but ``r_ema``: that starts at 1, as a fresh block's does."""
        key = f"{prefix}r_ema"
        others = self.state_dict(prefix=prefix).keys() - {key}
        if self.rescue is not None and others and others <= state_dict.keys():
            state_dict.setdefault(key, torch.ones_like(self.r_ema))
        if self.targets:
            self.tally.zero_()  # of batches that the loaded average knows nothing of
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _start_of(mix: MixConfig) -> Tensor:
    """The ``alpha_raw`` of a fresh block."""
    margin = MARGIN if mix.init == "identity" else NOTEBOOKS_MARGIN
    return logit_of(mix.alpha_init, margin)
