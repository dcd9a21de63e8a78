"""The ground of all trials: the model without blocks, measured once as each trial will be."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import nn

from coordcbam._support.errors import UsageError, shown
from coordcbam.insert import Row
from coordcbam.insert.plan import Places
from coordcbam.preflight import signal
from coordcbam.preflight.candidates import NONE, Candidate
from coordcbam.preflight.price import Base, base_of
from coordcbam.preflight.trial import Outputs, Trial, copied, places_of, trial
from coordcbam.preflight.verdict import tells

Score: TypeAlias = Callable[[nn.Module], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ground:
    """What every trial has in common, and the model without blocks."""

    model: nn.Module
    rows: tuple[Row, ...]
    batches: list[Any]
    score: Score | None
    outputs: Outputs
    before: signal.Heard
    gradients: signal.Gradients | None
    score_before: float | None
    base: Base

    def scored(self, made: Trial) -> float | None:
        """The score of a copy in eval mode."""
        return None if self.score is None else scored_by(self.score, made.model.eval())

    def trial(self, of: Candidate, seed: int, paths: Iterable[str] | None = None) -> Trial:
        """A copy with blocks at all places, or at these."""
        wanted = None if paths is None else set(paths)
        channels = {r.path: r.channels for r in self.rows if wanted is None or r.path in wanted}
        return trial(self.model, channels, of, seed, self.outputs)


def ground_of(
    model: nn.Module, at: Places, batches: list[Any], score: Score | None, outputs: Outputs
) -> tuple[Ground, list[str]]:
    """The model without blocks, measured as each trial is; and what there is to say of it."""
    rows, before = places_of(model, at, batches[0])
    notes = [f"{path} has a block already: the one on trial comes after it" for path in before]
    channels = {row.path: row.channels for row in rows}
    made = trial(model, channels, Candidate(name=NONE, what=None), 0, outputs)
    plain = Trial(copied(model).eval(), {}, outputs)
    gradients = signal.gradients(made, batches[0])
    if gradients is None:
        notes.append("the model has no gradient: nothing is said of it")
    heard = signal.heard(plain, batches)
    score_before = None if score is None else _score_of_all(scored_by(score, plain.model))
    signal.check_comparable(heard.outputs, alone=not tells(score_before))
    ground = Ground(
        model=model,
        rows=rows,
        batches=batches,
        score=score,
        outputs=outputs,
        before=heard,
        gradients=gradients,
        score_before=score_before,
        base=base_of(model, batches[0]),
    )
    if ground.score_before is not None and not tells(ground.score_before):
        notes.append(
            f"the model scores {ground.score_before:.3g} as it is, of which any change may be "
            "chance: read how far its outputs drift"
        )
    return ground, notes


def scored_by(score: Score, model: nn.Module) -> float:
    """The score as a number.

    Raises:
        UsageError: something else.
    """
    with torch.no_grad():
        found: Any = score(model)
    try:
        number = None if isinstance(found, (str, bytes)) else float(found)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None:
        raise UsageError(f"score(model) returned {shown(found)}: expected one number")
    return number


def _score_of_all(found: float) -> float:
    """The score without blocks, to which all others are compared.

    Raises:
        UsageError: it is not finite.
    """
    if not math.isfinite(found):
        raise UsageError(f"the model without blocks scores {found}: expected a finite number")
    return found
