"""Paired differences over few seeds: an interval, an exact test, and what may be said."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


class Difference(NamedTuple):
    """Mean of paired differences, its interval, the test's p, and the verdict in words."""

    mean: float
    low: float
    high: float
    p: float
    verdict: str


def compare(after: Sequence[float], before: Sequence[float]) -> Difference:
    """``after - before``, pair by pair.

    >>> compare([0.5, 0.75, 0.625], [0.25, 0.25, 0.25])
    Difference(mean=0.375, low=0.25, high=0.5, p=0.25, verdict='higher, but p > .05')
    """
    differences = [a - b for a, b in zip(after, before, strict=True)]
    low, high = interval(differences)
    p = sign_flip(differences)
    return Difference(float(np.mean(differences)), low, high, p, _verdict(low, high, p))


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean, seeds resampled; the same each time."""
    values = np.asarray(differences, dtype=float)
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    ends = np.quantile(values[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(ends[0]), float(ends[1])


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p: the share of all sign patterns whose sum is as far from 0 as the one seen.

    >>> sign_flip([1.0, 2.0, 3.0]), sign_flip([0.0, 0.0])
    (0.25, 1.0)
    """
    values = np.asarray(differences, dtype=float)
    sums = np.array(list(product((-1.0, 1.0), repeat=len(values)))) @ values
    # Sums of the same numbers in another order differ in their last digits.
    slack = 1e-12 * max(float(np.abs(values).sum()), 1.0)
    return float(np.mean(np.abs(sums) >= abs(values.sum()) - slack))


def least_p(seeds: int) -> float:
    """The smallest p that :func:`sign_flip` can give.

    >>> least_p(6)
    0.03125
    """
    return 2.0 / 2**seeds


def _verdict(low: float, high: float, p: float) -> str:
    if low <= 0.0 <= high:
        return "no difference shown"
    side = "higher" if low > 0.0 else "lower"
    return side if p <= 1.0 - LEVEL else f"{side}, but p > .05"
