"""From what was seen of a block, seed by seed, to its row; and from places alone to a ranking."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from coordcbam.block import BlockConfig, certify
from coordcbam.insert import Row
from coordcbam.preflight.candidates import Candidate
from coordcbam.preflight.ground import Ground
from coordcbam.preflight.price import Price
from coordcbam.preflight.result import AloneRow, AtPlace, BlockRow, Figure, PlaceRow
from coordcbam.preflight.signal import Gain, Gradients
from coordcbam.preflight.verdict import harms, ranked


class Seen(NamedTuple):
    """One seed's blocks at all places."""

    gains: Mapping[str, Gain]
    drift: float
    gradients: Gradients | None
    score: float | None = None


def block_row(ground: Ground, of: Candidate, price: Price, seen: Sequence[Seen]) -> BlockRow:
    """The row of one block, whose price is that of the first seed."""
    low, high = _ends(of, seen)
    scores = [each.score for each in seen if each.score is not None]
    score = Figure.of(scores) if scores else None
    before, drift = ground.score_before, Figure.of([each.drift for each in seen])
    shock = None if score is None or before is None else score.minus(before)
    return BlockRow(
        block=of.name,
        places=tuple(_at(row.path, seen) for row in ground.rows),
        gain_min=low,
        gain_max=high,
        certified=isinstance(of.what, BlockConfig),
        harms=of.what is not None and harms(before, shock, drift),
        drift=drift,
        score=score,
        shock=shock,
        gradient_input=_of_input(ground.gradients, seen),
        parameters=price.parameters,
        flops=price.flops,
        elementwise=price.elementwise,
        latency_ms=price.latency_ms,
        latency_ratio=price.latency_ratio,
        memory_bytes=price.memory_bytes,
    )


def place_rows(
    places: Sequence[Row],
    alone: Sequence[tuple[AloneRow, int, int]],
    gradients: Gradients | None,
    *,
    by_score: bool,
) -> list[PlaceRow]:
    """The places, the one where blocks harm most first."""
    shares = _shares(gradients)
    found: dict[str, dict[str, float | None]] = {}
    for place in places:
        here = [each for each in alone if each[0].path == place.path]
        shocks = [row.shock for row, _, _ in here if row.shock is not None]
        found[place.path] = {
            "shock": _mean(shocks) if shocks else None,
            "drift": _mean(row.drift for row, _, _ in here),
            "gradient_share": shares.get(place.path),
            "parameters": _mean(float(count) for _, count, _ in here),
            "flops": _mean(float(count) for _, _, count in here),
        }
    by_path = {place.path: place for place in places}
    return [
        PlaceRow(
            rank=rank,
            path=path,
            layer=by_path[path].layer,
            channels=by_path[path].channels,
            **found[path],  # type: ignore[arg-type]
        )
        for rank, path in enumerate(ranked(found, by_score=by_score), start=1)
    ]


def _ends(of: Candidate, seen: Sequence[Seen]) -> tuple[float, float]:
    """What a config guarantees; of others what was met."""
    if isinstance(of.what, BlockConfig):
        sure = certify(of.what)
        return sure.gain_min, sure.gain_max
    gains = [gain for each in seen for gain in each.gains.values()]
    return min(gain.low for gain in gains), max(gain.high for gain in gains)


def _at(path: str, seen: Sequence[Seen]) -> AtPlace:
    gains = [each.gains[path] for each in seen]
    passed = [each.gradients.places[path] for each in seen if each.gradients is not None]
    backward = [leaves / enters for leaves, enters, _ in passed if enters]
    return AtPlace(
        path=path,
        std_ratio=Figure.of([gain.std for gain in gains]),
        rms_ratio=Figure.of([gain.rms for gain in gains]),
        kept=Figure.of([gain.kept for gain in gains]),
        gradient_gain=Figure.of(backward) if backward else None,
    )


def _of_input(before: Gradients | None, seen: Sequence[Seen]) -> Figure | None:
    after = [each.gradients.input for each in seen if each.gradients is not None]
    if before is None or not before.input or not after:
        return None
    return Figure.of([each / before.input for each in after])


def _shares(gradients: Gradients | None) -> dict[str, float]:
    """How much of the outputs' sensitivity to relative changes of a map each place has."""
    if gradients is None:
        return {}
    products = {path: leaves * level for path, (leaves, _, level) in gradients.places.items()}
    whole = math.fsum(products.values())
    return {path: value / whole for path, value in products.items()} if whole else {}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found else 0.0
