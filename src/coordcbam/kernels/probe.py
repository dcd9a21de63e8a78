"""A cheap look at whether tensors on the CPU have changed behind PyTorch's back.

PyTorch counts the changes of a tensor, but not those through ``.data``, by which some libraries
keep averages of a model's weights. Four numbers of each tensor are compared: a change of a whole
tensor is seen, that of a few elements may not be.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from coordcbam.kernels import cpu

_PROBES = 4  # of csrc/probe.h


class Probe:
    """A few numbers of each of the tensors, as they are now.

    Args:
        tensors: for which :func:`probes` has nothing to say.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        count = len(tensors)
        self._kept = [t.detach() for t in tensors]  # so that their memory stays theirs
        self.pointers = [t.data_ptr() for t in tensors]
        self._at = (ctypes.c_void_p * count)(*self.pointers)
        self._last = (ctypes.c_int64 * count)(*(_span(t) for t in tensors))
        self._seen = (ctypes.c_float * (count * _PROBES))()
        self._entry = cpu._loaded().coordcbam_probe
        self._count = ctypes.c_int64(count)
        self.look()

    def look(self) -> None:
        """Take the numbers as they are now."""
        self._entry(self._at, self._last, self._count, self._seen, 1)

    def same(self) -> bool:
        """Whether the numbers at those places are still the same, to the bit."""
        return bool(self._entry(self._at, self._last, self._count, self._seen, 0))


def probes(tensors: Sequence[Tensor]) -> str | None:
    """Why these tensors cannot be looked at; None where they can."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"a weight is on {tensor.device}"
        if tensor.dtype != torch.float32 or tensor.numel() == 0 or tensor.layout != torch.strided:
            return f"a weight is {tensor.dtype}, {tensor.layout} of {tensor.numel()} numbers"
    return cpu.missing()


def _span(tensor: Tensor) -> int:
    """From the first to the last number in memory."""
    return sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
