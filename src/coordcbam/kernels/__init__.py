"""The arithmetic of the block: two passes over x forward, two backward, small nets between.

``plain`` is the oracle, written as the notebook writes it. ``algebra`` (PyTorch), ``cpu`` (C) and
``triton`` (CUDA) are its faster twins: rows of :data:`KERNELS`, none of which changes an option or
the state of a layer.
"""

from coordcbam.kernels.ops import Attended, Gain, Kernel, Profile, Settled, Signal
from coordcbam.kernels.pair import Pair
from coordcbam.kernels.side import Maps
from coordcbam.kernels.table import AUTO, KERNELS, attend, chosen, kernel_for, use

__all__ = [
    "AUTO",
    "KERNELS",
    "Attended",
    "Gain",
    "Kernel",
    "Maps",
    "Pair",
    "Profile",
    "Settled",
    "Signal",
    "attend",
    "chosen",
    "kernel_for",
    "use",
]
