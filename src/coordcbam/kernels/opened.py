"""The whole block as one open expression of PyTorch: differentiable, exported and compiled as is.

Every device, dtype and option. Where nothing is traced, :mod:`.fused` keeps less for the backward.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coordcbam.kernels import algebra
from coordcbam.kernels.elementwise import hardsigmoid
from coordcbam.kernels.energies import sums
from coordcbam.kernels.ops import SideNet
from coordcbam.kernels.passes import Factors, Shape, Statistics
from coordcbam.kernels.side import Maps, Minima, attended


class Passes(NamedTuple):
    """What touches x, differentiably."""

    profile: Callable[[Tensor], Statistics]
    scale: Callable[[Tensor, Factors, Shape, Tensor], Tensor]
    measure: Callable[[Tensor, Factors, Shape, Tensor], tuple[Tensor, Tensor]]


class Opened:
    """A map and its factors."""

    eager = False

    def __init__(
        self,
        x: Tensor,
        side: SideNet,
        passes: Passes,
        tensors: Sequence[Tensor] | None = None,
        *,
        traced: bool = False,
        twice: bool = False,
    ) -> None:
        self.x = x
        self._passes = passes
        found = passes.profile(x)
        # A size that is recorded is no number to decide by.
        positions = 0 if traced else x.shape[0] * (x.shape[2] + x.shape[3])
        weights = side.weights(side.tensors if tensors is None else tensors, positions)
        minima = Minima(x.amin(dim=3), x.amin(dim=2)) if side.signed else None
        hard = hardsigmoid if twice else F.hardsigmoid
        self._looked = attended(found, weights, minima, hard)
        self._shape = weights.shape
        self._spatial = None
        if side.gates_places:
            self._spatial = side.spatial(x, self._looked[1].channel * side.unit)

    def looked(self) -> tuple[Maps, Factors]:
        """The maps and the factors."""
        return self._looked

    def mixed(self, alpha: Tensor | None) -> Tensor:
        """The mix, (B, C, H, W); None: the attended signal."""
        alpha = self._alpha(alpha)
        if self._spatial is None:
            return self._passes.scale(self.x, self._looked[1], self._shape, alpha)
        return self.x * ((1.0 - alpha) + alpha * (self._gain() * self._spatial))

    def measured(self, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mix, and the sums."""
        if self._spatial is not None:
            return self.mixed(alpha), self.sums()
        return self._passes.measure(self.x, self._looked[1], self._shape, self._alpha(alpha))

    def sums(self, *, exact: bool = False) -> Tensor:
        """The sums of x and y, (5, B)."""
        with torch.no_grad():
            return sums(self.x, self.mixed(None), exact=exact)

    def _gain(self) -> Tensor:
        """The factors' product, (B, C, H, W)."""
        factors = self._looked[1]
        return algebra.coordinates(factors, self._shape) * factors.channel[:, :, None, None]

    def _alpha(self, alpha: Tensor | None) -> Tensor:
        return self.x.new_ones(()) if alpha is None else alpha


def profile(x: Tensor) -> Statistics:
    """The statistics, the peak's gradient to the first of tied maxima as the oracle has it."""
    return algebra.profile(x)._replace(peak=x.flatten(2).max(dim=2).values)


PASSES = Passes(profile=profile, scale=algebra.scale, measure=algebra.measure)
