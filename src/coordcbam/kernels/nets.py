"""The small nets in C for the fused function: forwards with everything in one call, and back."""

from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam.kernels import cpu, slopes, whole
from coordcbam.kernels.fused import Looked
from coordcbam.kernels.ops import Settled, SideNet
from coordcbam.kernels.passes import Factors, Statistics


class _Fold(NamedTuple):
    """How the weights that C reads are made of a block's tensors, as a graph."""

    tensors: list[Tensor]  # that stand for the block's
    leaves: dict[str, Tensor]


def forward(
    x: Tensor, settled: Settled, alpha: Tensor, *, sums: bool, keep: bool
) -> tuple[Tensor, Tensor | None, Looked | None]:
    """A forward by :mod:`.whole`."""
    made = whole.forward(x, packed(settled), cpu.number(alpha), sums=sums, keep=keep)
    looked = None
    if made.found is not None and made.maps is not None and made.factors is not None:
        looked = Looked(made.found, made.maps, made.factors)
    return made.out, made.sums, looked


def factors(found: Statistics, settled: Settled) -> Factors:
    """The factors alone."""
    return whole.side(found, packed(settled))[1]


def gradients(
    found: Statistics, by: Factors, side: SideNet, settled: Settled, tensors: list[Tensor]
) -> tuple[Statistics, list[Tensor | None]]:
    """Gradients of the statistics and of the tensors, from those of the factors."""
    by_found, by_leaves = slopes.gradients(found, by, settled.weights, packed(settled))
    wanted = [t.requires_grad for t in tensors]
    if not any(wanted):
        return by_found, [None] * len(tensors)
    fold = settled.layouts.get("fold")
    if not isinstance(fold, _Fold):
        fold = settled.layouts["fold"] = _folded(side, tensors)
    reached = {name: leaf for name, leaf in fold.leaves.items() if leaf.requires_grad}
    grads = iter(
        torch.autograd.grad(
            list(reached.values()),
            [t for t, want in zip(fold.tensors, wanted, strict=True) if want],
            [by_leaves[name] for name in reached],
            retain_graph=True,
            allow_unused=True,
        )
    )
    return by_found, [next(grads) if want else None for want in wanted]


def packed(settled: Settled) -> whole.Packed:
    """The weights as C reads them, laid out once."""
    found = settled.layouts.get("cpu")
    if not isinstance(found, whole.Packed):
        found = settled.layouts["cpu"] = whole.pack(settled.weights)
    return found


@torch.enable_grad()
def _folded(side: SideNet, tensors: list[Tensor]) -> _Fold:
    stand_ins = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    return _Fold(stand_ins, slopes.leaves(side.weights(stand_ins, None)))
