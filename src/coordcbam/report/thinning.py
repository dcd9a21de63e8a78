"""Fewer points to draw, with every dip and peak kept."""

import math
from collections.abc import Sequence


def thin(
    steps: Sequence[int], *series: Sequence[float], limit: int = 1000
) -> tuple[list[int], list[list[float]]]:
    """At most about ``limit`` of the points: each stretch keeps every series' lowest and highest.

    All series keep the same steps, so that the area between two of them can be drawn.

    Args:
        steps: positions along x, rising.
        series: one number per step each; NaN stays a gap where a whole stretch has none.
        limit: points to keep, 2 or more; shorter input comes back whole.

    Returns:
        The kept steps and, per series, the numbers there.

    >>> values = [0.0] * 5000
    >>> values[2345] = -1.0
    >>> steps, (kept,) = thin(range(5000), values, limit=100)
    >>> len(steps) <= 102, min(kept), steps[kept.index(-1.0)]
    (True, -1.0, 2345)
    """
    count = len(steps)
    keep = range(count) if count <= limit else sorted(_extremes(count, series, limit))
    return [steps[i] for i in keep], [[values[i] for i in keep] for values in series]


def _extremes(count: int, series: Sequence[Sequence[float]], limit: int) -> set[int]:
    stretches = max(1, limit // (2 * max(1, len(series))))
    kept = {0, count - 1}
    for part in range(stretches):
        stretch = range(part * count // stretches, (part + 1) * count // stretches)
        for values in series:
            known = [i for i in stretch if math.isfinite(values[i])] or stretch[:1]
            kept.add(min(known, key=values.__getitem__))
            kept.add(max(known, key=values.__getitem__))
    return kept
