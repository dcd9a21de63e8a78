"""The small nets as a graph of their own: PyTorch's way back through them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam.kernels.ops import SideNet
from coordcbam.kernels.passes import Factors, Statistics
from coordcbam.kernels.side import Maps, attended


class Graph(NamedTuple):
    """From statistics and weights to maps and factors."""

    leaves: tuple[Tensor, ...]  # statistics, then the tensors that want a gradient
    maps: Maps
    factors: Factors

    @classmethod
    def of(cls, side: SideNet, found: Statistics, tensors: Sequence[Tensor]) -> "Graph":
        """Run the nets on leaves that stand for these tensors."""
        statistics = Statistics(*(t.detach().requires_grad_() for t in found))
        stand_ins = [t.detach().requires_grad_(t.requires_grad) for t in tensors]
        with torch.enable_grad():
            maps, factors = attended(statistics, side.weights(stand_ins, _positions(found)))
        return cls((*statistics, *(t for t in stand_ins if t.requires_grad)), maps, factors)

    def gradients(
        self, factors: Sequence[Tensor], maps: Sequence[Tensor | None], tensors: Sequence[Tensor]
    ) -> tuple[Statistics, list[Tensor | None]]:
        """Gradients of the statistics and of the tensors, from those of factors and maps."""
        pairs = [
            (output, grad)
            for output, grad in zip(
                (*self.factors, *differing(self.maps)), (*factors, *maps), strict=True
            )
            if grad is not None and output is not None and output.requires_grad
        ]
        outputs, grads = zip(*pairs, strict=True)
        made = torch.autograd.grad(outputs, self.leaves, grads, allow_unused=True)
        count = len(Statistics._fields)
        by_found = (
            torch.zeros_like(t) if g is None else g
            for t, g in zip(self.leaves, made[:count], strict=False)
        )
        rest = iter(made[count:])
        return Statistics(*by_found), [next(rest) if t.requires_grad else None for t in tensors]


def differing(maps: Maps) -> tuple[Tensor | None, ...]:
    """The maps that differ from sample to sample."""
    return maps.channel, maps.fusion, maps.rows, maps.cols


def _positions(found: Statistics) -> int:
    """Rows and columns of all samples, which a small net runs on."""
    return found.mean.shape[0] * (found.row_mean.shape[2] + found.col_mean.shape[2])
