"""The target rescue and the monitor around a block that is not ours."""

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from coordcbam._support.errors import shown
from coordcbam._support.permanent import permanent
from coordcbam.block.checks import SIGNALS, InputError, check_map
from coordcbam.block.config import RescueConfig
from coordcbam.block.energy import Told
from coordcbam.block.mix import GuardedResidual
from coordcbam.block.options import OptionTypeError
from coordcbam.block.stats import Stats
from coordcbam.kernels import Pair

# A copy of the input, if any, and its version, where versions are counted.
_Before: TypeAlias = tuple[Tensor | None, int | None]
_BEFORE = "coordcbam_before"
_OF_MAPS = Stats._fields.index("gain_mean") - Stats._fields.index("ca_mean") + 1


class _FromTheBlock(Pair):
    """Mixed from y's side, so that alpha = 1 is y exactly."""

    def mixed(self, alpha: Tensor | None) -> Tensor:
        if alpha is None:
            return self.y
        return (self.y - (1.0 - alpha) * self.change).to(self.y.dtype)


class _Watched(Pair):
    """y, whatever alpha."""

    def mixed(self, alpha: Tensor | None) -> Tensor:  # noqa: ARG002
        return self.y


@permanent
class Guard(GuardedResidual):
    """``out = x + alpha_eff * (inner(x) - x)``, alpha_eff = min(1, (1 - r_min) / (1 - r_ema)).

    Whatever ``inner`` is, the output keeps ``r_min`` of the input's signal; while it keeps more by
    itself, the output is inner's own, bit for bit. The average ``r_ema`` of ``<x, y> / <x, x>``
    moves by ``commit_``; until its first move a training batch is judged by its own value. A block
    may overwrite its input: from its first run on, in each mode, it is known whether it does, and
    only then is the input copied before it.

    A guard is a safety device: it makes a block that divides the signal weak, not good.

    Args:
        inner: a block whose output has its input's shape. None for a guard that is attached to a
            block which stays where it is (``guard_`` does that).
        r_min: what is kept of the signal at least, in (0, 1).
        watch: measure, and never act.
        r_max: what the output may reach at most, above 1; None leaves amplification alone.
        momentum: of the average, in (0, 1).

    ``forward`` takes and returns (B, C, H, W). Bypassed, it is inner alone.

    Raises:
        OptionTypeError, OptionValueError: naming value and rule.
        InputError: an output whose shape is not the input's.

    >>> x = torch.ones(1, 1, 2, 2)
    >>> class Halve(nn.Module):
    ...     def forward(self, x):
    ...         return 0.5 * x
    >>> Guard(Halve())(x).mean()
    tensor(0.9000)
    """

    # Whether the block works in place, in eval and in training; None: it has not run yet.
    overwrites: tuple[bool | None, bool | None] = (None, None)

    def __init__(
        self,
        inner: nn.Module | None = None,
        r_min: float = 0.9,
        *,
        watch: bool = False,
        r_max: float | None = None,
        momentum: float = 0.95,
    ) -> None:
        if inner is not None and not isinstance(inner, nn.Module):
            raise OptionTypeError(f"Guard.inner={shown(inner)}: expected an nn.Module")
        if not isinstance(watch, bool):
            raise OptionTypeError(f"Guard.watch={shown(watch)}: expected True or False")
        mode: Literal["watch", "target"] = "watch" if watch else "target"
        rescue = RescueConfig(
            monitor=True, r_min=r_min, r_max=r_max, ema_momentum=momentum, rescue_mode=mode
        )
        if rescue.r_min is None:
            raise OptionTypeError("Guard.r_min=None: expected a number in (0, 1)")
        super().__init__(None, rescue)
        self.inner = inner
        self.overwrites = (None, None)

    def forward(self, x: Tensor) -> Tensor:
        """The guarded output of ``inner``, (B, C, H, W)."""
        if self.inner is None:
            raise InputError("Guard: attached to another block, so it cannot be called itself")
        self._check(x, "Guard")  # before inner, whose own words would be about something else
        if self.bypassed:
            return self._guarded(x, self.inner(x))
        before = self._before(x)
        y = self.inner(x)
        return self._guarded(self._recalled(x, before), y)

    def given(self, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """What the guarded block is called with, for :meth:`after`; None: what it was to be."""
        if self.bypassed or not inputs or not isinstance(inputs[0], Tensor):
            return None
        x, *others = inputs
        self._check(x, "Guard")
        before = self._before(x)
        if before == (None, None):
            return None
        view = x.view_as(x)  # what is noted on it is on no tensor of the caller's
        setattr(view, _BEFORE, before)
        return (view, *others)

    def after(self, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the guarded block gives: its output, mixed with its input where it must be."""
        if not inputs:
            raise InputError("Guard: the block was called by keyword; expected block(x)")
        x, before = inputs[0], getattr(inputs[0], _BEFORE, None)
        if before is None:
            return self._guarded(x, output)
        setattr(x, _BEFORE, None)  # the block may return it, and it must hold no copy then
        return self._guarded(self._recalled(x, before), output)

    def _guarded(self, x: Tensor, y: Tensor) -> Tensor:
        self._check(x, "Guard")
        if isinstance(y, Tensor):
            self._check(y, "Guard: the block's output")
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InputError(f"Guard: the block made {got} of {tuple(x.shape)}, expected the same")
        if self.bypassed:
            return y
        signal = _FromTheBlock(x, y) if self._may_act() else _Watched(x, y)
        return self.blend(signal, lambda: [x.new_full((), math.nan)] * _OF_MAPS, traced=False)[0]

    def _before(self, x: Tensor) -> _Before:
        """A copy of x where the block may overwrite it, and how often x was written to."""
        known, compiling = self.overwrites[self._mode], torch.compiler.is_compiling()
        counted = not compiling and not x.is_inference()
        if known is None and not (counted or compiling) and False in self.overwrites:
            known = False  # as in the other mode
        return None if known is False else x.clone(), x._version if counted else None

    def _recalled(self, x: Tensor, before: _Before) -> Tensor:
        """The input as it was before the block."""
        kept, version = before
        if version is None:
            return x if kept is None else kept
        overwritten = x._version != version
        if overwritten or self.overwrites[self._mode] is None:
            others = self.overwrites[not self._mode]
            self.overwrites = (others, overwritten) if self._mode else (overwritten, others)
        if not overwritten:
            return x
        if kept is None:
            raise InputError(
                "Guard: the block overwrote its input, which it had not done before: call it "
                "again, and its input is copied first"
            )
        return kept

    @property
    def _mode(self) -> bool:
        """Whether the block trains, also one that is frozen in a guard that trains."""
        return (self if self.inner is None else self.inner).training

    def _check(self, x: Any, who: str) -> None:
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            check_map(x, None, SIGNALS, self.stats.device, who=who)

    def _may_act(self) -> bool:
        assert self.rescue is not None
        return self.rescue.rescue_mode != "watch"

    def _judges(self) -> bool:
        # Without gradients too: a checkpointed pass and its recomputation are one function.
        return self.training and self.monitor and not self.bypassed

    def _expected(self, told: Told) -> Tensor:
        if not (self.calibrating or self._judges()):
            return self.r_ema
        own, usable = told.rho.to(self.r_ema), told.tally[1] > 0.0
        return torch.where((self.updates == 0) & usable, own, self.r_ema)

    def extra_repr(self) -> str:
        """The rule, and how much of the signal it keeps."""
        assert self.rescue is not None
        return f"r_min={self.rescue.r_min}, {self.rescue.rescue_mode}"
