"""The residual mix around any attention, with its monitor and its rescue."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from coordcbam._support.permanent import permanent
from coordcbam.block.config import MixConfig, RescueConfig
from coordcbam.block.coord import logit_of
from coordcbam.block.options import OptionTypeError
from coordcbam.block.state import WideBuffers
from coordcbam.block.stats import Stats, ratio, spread


@permanent
class GuardedResidual(WideBuffers):
    """``out = x + alpha_eff * (y - x)`` for a shape-preserving ``y = f(x)``.

    In training with the monitor on, ``r = std(x + alpha * (y - x)) / std(x)`` is averaged into
    ``r_ema``, and the rescue lowers ``alpha_eff`` below alpha while the average is under ``r_min``.
    In eval, and without a monitor, ``alpha_eff`` is alpha: both as in the notebook. One thing is
    not: a ratio that is not finite leaves ``r_ema`` as it was.

    ``stats`` holds the numbers of the last monitored batch (:class:`Stats`), NaN before the first.
    It is one vector on the block's device, in no checkpoint, written without a host sync.

    Source: notebook section 4C.
    """

    alpha_raw: Tensor
    r_ema: Tensor
    stats: Tensor

    _wide = ("r_ema", "stats")
    bypassed = False

    def __init__(self, mix: MixConfig, rescue: RescueConfig | None) -> None:
        super().__init__()
        self.mix = mix
        self.rescue = rescue
        self.monitor = rescue is not None and rescue.monitor
        if mix.residual:
            raw = logit_of(mix.alpha_init)
            if mix.learnable_alpha:
                self.alpha_raw = nn.Parameter(raw)
            else:
                self.register_buffer("alpha_raw", raw)
        if rescue is not None:
            self.register_buffer("r_ema", torch.tensor(1.0))
        self.register_buffer(
            "stats", torch.full((len(Stats._fields),), torch.nan), persistent=False
        )

    @property
    def monitor(self) -> bool:
        """Whether training forwards are measured (and, with a rescue, acted on)."""
        return self._monitor

    @monitor.setter
    def monitor(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise OptionTypeError(f"monitor={on!r}: expected True or False")
        self._monitor = on

    def alpha(self, like: Tensor) -> Tensor:
        """``sigmoid(alpha_raw)`` in the dtype of ``like``, 0-dim; 1 without a residual."""
        if not self.mix.residual:
            return like.new_ones(())
        return torch.sigmoid(self.alpha_raw).to(device=like.device, dtype=like.dtype)

    def blend(
        self, x: Tensor, y: Tensor, describe: Callable[[], list[Tensor]], *, traced: bool
    ) -> tuple[Tensor, Stats | None]:
        """The mix of ``x`` and ``y``, and the batch's numbers if it is monitored or traced.

        Args:
            x: block input, (B, C, H, W).
            y: attended signal, same shape.
            describe: gives the fields of :class:`Stats` after ``alpha_eff``; called when needed.
            traced: measure even where the monitor does not (it never acts for a trace's sake).
        """
        alpha = self.alpha(x)
        acts = self.training and self.monitor and not self.bypassed
        if not (acts or traced):
            return self._mixed(x, y, alpha), None
        with torch.no_grad():
            before, after, mixed = (spread(t) for t in (x, y, self._mixed(x, y, alpha)))
            r_out = ratio(mixed, before)
            if acts:
                self._average(r_out)
        alpha_eff = self._rescued(alpha) if acts else alpha
        with torch.no_grad():
            r_ema = self.r_ema if self.rescue is not None else torch.full_like(r_out, torch.nan)
            numbers = [before, after, mixed, ratio(after, before), r_out, r_ema, alpha, alpha_eff]
            vector = torch.stack([t.to(self.stats) for t in (*numbers, *describe())])
            if acts:
                self.stats.copy_(vector)
        return self._mixed(x, y, alpha_eff), Stats(*vector.unbind())

    def _mixed(self, x: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return x + alpha * (y - x) if self.mix.residual else y

    def _average(self, r_out: Tensor) -> None:
        """``r_ema <- m * r_ema + (1 - m) * r_out``, unless ``r_out`` is not finite."""
        if self.rescue is None or not self.mix.residual:
            return
        m = self.rescue.ema_momentum
        r_out = r_out.to(self.r_ema)
        self.r_ema.copy_(
            torch.where(r_out.isfinite(), self.r_ema * m + (1.0 - m) * r_out, self.r_ema)
        )

    def _rescued(self, alpha: Tensor) -> Tensor:
        """``alpha_eff``: alpha times ``r_ema / r_min`` when that is under 1, down to a floor."""
        rescue = self.rescue
        if rescue is None or not self.mix.residual:
            return alpha
        share = (self.r_ema.detach() / max(rescue.r_min, 1e-12)).clamp(0.0, 1.0).to(alpha)
        if rescue.rescue_mode == "ratio_floor":
            return alpha * share.clamp(rescue.min_rescue_ratio, 1.0)
        return (alpha * share).clamp(rescue.alpha_eff_min, 1.0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """A step-1 state has all but ``r_ema``: that starts at 1, as a fresh block's does."""
        key = f"{prefix}r_ema"
        others = self.state_dict(prefix=prefix).keys() - {key}
        if self.rescue is not None and others and others <= state_dict.keys():
            state_dict.setdefault(key, torch.ones_like(self.r_ema))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
