"""What a batch says of the share that is kept, and a step of its average, each as one call of C.

Thirty operations of PyTorch on a few numbers cost more than a pass over a small map. The rules are
those of :mod:`coordcbam.block.energy` and :mod:`coordcbam.block.target`, which run where these
cannot.
"""

import ctypes
import functools

import torch
from torch import Tensor

from coordcbam.kernels import cpu

TOLD = 6  # kept, count, broken, silent, rho, rms

_POINTER, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def tells(found: Tensor, alpha: Tensor, tally: Tensor | None) -> bool:
    """Whether :func:`tell` can read and write them where they lie."""
    return (
        type(found) is Tensor
        and found.device.type == "cpu"
        and found.dtype == torch.float64
        and cpu.readable(alpha)
        and (tally is None or cpu.readable(tally))
        and cpu.missing() is None
    )


def tell(
    found: Tensor,
    alpha: Tensor,
    tally: Tensor | None,
    *,
    quiet: float,
    drowned: float,
    limit: float,
) -> Tensor:
    """Sum of rho, samples in it, broken and silent batches, mean rho and mean rms, (6,).

    Args:
        found: the sums of x and y, (5, B).
        alpha: share of y in the mix, 0-dim.
        tally: to which the first four are added, (4,).
        quiet: an energy of x up to here is no signal.
        drowned: nor does a sample tell whose y has more than so many times the energy of x.
        limit: an energy from here on breaks the batch.
    """
    told = torch.empty(TOLD, dtype=torch.float64)
    _entries()[0](
        found.data_ptr(),
        found.shape[1],
        *found.stride(),
        cpu.number(alpha),
        quiet,
        drowned,
        limit,
        told.data_ptr(),
        None if tally is None else tally.data_ptr(),
    )
    return told


def commits(tally: Tensor, average: Tensor, updates: Tensor, skipped: Tensor) -> bool:
    """Whether :func:`commit` can read and write them where they lie."""
    return (
        not torch.compiler.is_compiling()
        and cpu.readable(tally)
        and cpu.readable(average)
        and updates.device.type == skipped.device.type == "cpu"
        and updates.dtype == skipped.dtype == torch.int64
        and cpu.missing() is None
    )


def commit(
    tally: Tensor, average: Tensor, updates: Tensor, skipped: Tensor, momentum: float
) -> None:
    """Move ``average`` and both counters by what was tallied, which starts afresh."""
    _entries()[1](
        tally.data_ptr(), average.data_ptr(), updates.data_ptr(), skipped.data_ptr(), momentum
    )


@functools.cache
def _entries() -> "tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer]":
    library = cpu._loaded()
    library.coordcbam_tell.argtypes = [
        *(_POINTER, _COUNT, _COUNT, _COUNT),
        *(_NUMBER, _NUMBER, _NUMBER, _NUMBER, _POINTER, _POINTER),
    ]
    library.coordcbam_commit.argtypes = [_POINTER, _POINTER, _POINTER, _POINTER, _NUMBER]
    return library.coordcbam_tell, library.coordcbam_commit
