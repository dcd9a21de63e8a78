"""The small nets in C for the fused function: forwards with everything in one call, and back."""

from torch import Tensor

from coordcbam.kernels import cpu, slopes, whole
from coordcbam.kernels.fused import Looked
from coordcbam.kernels.ops import Settled, SideNet
from coordcbam.kernels.packed import Packed, pack
from coordcbam.kernels.passes import Factors, Statistics


def forward(
    x: Tensor, settled: Settled, alpha: Tensor, *, sums: bool, keep: bool
) -> tuple[Tensor, Tensor | None, Looked | None]:
    """A forward by :mod:`.whole`."""
    made = whole.forward(x, _packed(settled), cpu.number(alpha), sums=sums, keep=keep)
    looked = None
    if made.found is not None and made.maps is not None and made.factors is not None:
        looked = Looked(made.found, made.maps, made.factors)
    return made.out, made.sums, looked


def factors(found: Statistics, settled: Settled) -> Factors:
    """The factors alone."""
    return whole.side(found, _packed(settled))[1]


def gradients(
    found: Statistics, by: Factors, side: SideNet, settled: Settled, tensors: list[Tensor]
) -> tuple[Statistics, list[Tensor | None]]:
    """Gradients of the statistics and of the tensors, from those of the factors."""
    by_found, by_leaves = slopes.gradients(found, by, settled.weights, _packed(settled))
    return by_found, side.gradients(tensors, by_leaves)


def _packed(settled: Settled) -> Packed:
    """The weights as C reads them, laid out once."""
    found = settled.layouts.get("cpu")
    if not isinstance(found, Packed):
        found = settled.layouts["cpu"] = pack(settled.weights)
    return found
