"""The four passes over x that a fast block makes, as types: what each takes and gives.

The whole block is ``out = x * (1 + alpha * (g - 1))`` with the gain
``g = channel * clamp(1 - beta + beta * rows * cols, low, high)``, and every factor of g comes from
means and maxima along rows and columns. So a forward reads x to profile it and again to scale it,
and a backward reads x and the gradient twice; all between is of size (B, C, H + W).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Statistics(NamedTuple):
    """What a block looks at of x."""

    mean: Tensor  # (B, C)
    peak: Tensor  # (B, C), the maximum
    row_mean: Tensor  # (B, C, H)
    row_max: Tensor  # (B, C, H)
    col_mean: Tensor  # (B, C, W)
    col_max: Tensor  # (B, C, W)


class Factors(NamedTuple):
    """The gain as its small factors; also their gradients."""

    channel: Tensor  # (B, C)
    rows: Tensor  # (B, C, H)
    cols: Tensor  # (B, C, W)


class Shape(NamedTuple):
    """How the factors make the gain: ``k = clamp(1 - beta + beta * rows * cols, low, high)``."""

    beta: float
    low: float  # -inf and inf where nothing is clamped
    high: float

    @property
    def clamps(self) -> bool:
        """Whether either end is finite."""
        return self.low > float("-inf") or self.high < float("inf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """One way to make the four passes; every way gives the same numbers up to rounding.

    ``profile(x)``: the statistics of x, (B, C, H, W).

    ``scale(x, factors, shape, alpha)``: ``x * (1 + alpha * (g - 1))``, alpha a 0-dim tensor.

    ``measure(x, factors, shape, alpha)``: the same, and (5, B) in float32 or wider: each sample's
    ``<x, x>``, ``<x, gx>``, ``<gx, gx>``, ``sum x`` and ``sum gx``, without alpha.

    ``factors(grad, x, factors, shape, alpha)``: the gradients of the factors and of alpha. Where
    the clamp binds, rows and columns get none; at an end itself they do, as ``torch.clamp``.

    ``input(grad, x, factors, shape, alpha, statistics, gradients)``: the gradient of x, from the
    output and from the statistics: a row's or column's maximum shares its gradient evenly among
    ties, the peak gives all of it to the first one in memory order of (H, W).

    A NaN in x makes every maximum over it a NaN.
    """

    name: str
    profile: Callable[[Tensor], Statistics]
    scale: Callable[[Tensor, Factors, Shape, Tensor], Tensor]
    measure: Callable[[Tensor, Factors, Shape, Tensor], tuple[Tensor, Tensor]]
    factors: Callable[[Tensor, Tensor, Factors, Shape, Tensor], tuple[Factors, Tensor]]
    input: Callable[[Tensor, Tensor, Factors, Shape, Tensor, Statistics, Statistics], Tensor]
