"""Which blocks harm, by how much, in a sentence; and which place minds a block most."""

import math
from collections.abc import Mapping, Sequence

from coordcbam.preflight.result import BlockRow, Figure

LITTLE = 0.05  # a score from 0 to here is of hardly any detection: its changes are chance
HARM = 0.01  # of the score, or of the outputs: a smaller change is one that training would not see


def tells(score: float | None) -> bool:
    """Whether a change of this score says something.

    >>> tells(0.6), tells(-0.3), tells(0.009), tells(None)
    (True, True, False, False)
    """
    return score is not None and not 0.0 <= score < LITTLE


def harms(score: float | None, shock: Figure | None, drift: Figure) -> bool:
    """Whether a block costs a hundredth of the score without it; where there is none, of outputs.

    A score that is no number is one that was lost. Of a little score, nothing can be.

    >>> harms(0.5, Figure.of([-0.2]), Figure.of([0.3])), harms(None, None, Figure.of([0.0]))
    (True, False)
    """
    if score is None or shock is None or not tells(score):
        return not drift.mean < HARM
    return not shock.mean > -HARM * abs(score)


def verdict(rows: Sequence[BlockRow], score: float | None) -> str:
    """One or two sentences, the most harmful block first."""
    blocks = [row for row in rows if row.places and row.block != "none"]
    bad = sorted((row for row in blocks if row.harms), key=_worst_first)
    if not blocks:
        return "No block was tried."
    if bad:
        told = ", ".join(f"{row.block} {_change(row, score)}" for row in bad)
        verb = "harms" if len(bad) == 1 else "harm"
        who = "The block" if len(blocks) == 1 else f"{len(bad)} of {len(blocks)} blocks"
        first = f"{who} {verb} this model before any training: {told}."
    else:
        first = "No block harms this model before any training."
    same = [row.block for row in blocks if row.drift.high == 0.0]
    slight = [row for row in blocks if not row.harms and row.block not in same]
    if slight:
        told = ", ".join(f"{row.block} {_change(row, score)}" for row in slight)
        first += f" Not harmful: {told}."
    return first + (f" Not a bit of the outputs changes: {', '.join(same)}." if same else "")


def ranked(found: Mapping[str, Mapping[str, float | None]], *, by_score: bool = True) -> list[str]:
    """Paths, the one where blocks harm most first: by shock, drift, gradient share, operations.

    Without ``by_score`` a shock says nothing and is left out.

    >>> ranked({"a": {"shock": -0.1, "drift": 0.5}, "b": {"shock": -0.3, "drift": 0.2}})
    ['b', 'a']
    >>> ranked({"a": {"shock": None, "drift": 0.5}, "b": {"shock": None, "drift": 0.7}})
    ['b', 'a']
    """

    def key(path: str) -> tuple[float, ...]:
        of = found[path]
        values = (of.get("shock"), of.get("drift"), of.get("gradient_share"), of.get("flops"))
        shock, *rest = (value or 0.0 for value in values)
        shock = shock if by_score else 0.0
        return (_or_worst(shock), *(_or_worst(-value) for value in rest))

    return sorted(found, key=key)


def _worst_first(row: BlockRow) -> float:
    return _or_worst(-row.drift.mean if row.shock is None else row.shock.mean)


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _change(row: BlockRow, score: float | None) -> str:
    """``0.622 to 0.201 (-68 %)``, or how far the outputs move."""
    if score is None or row.score is None or row.shock is None or not tells(score):
        if not math.isfinite(row.drift.mean):
            return "makes outputs that are not finite"
        return f"moves the outputs by {100 * row.drift.mean:.1f} %"
    part = f"{100 * row.shock.mean / abs(score):+.1f} %"
    return f"{score:.3f} to {row.score.mean:.3f} ({part})"
