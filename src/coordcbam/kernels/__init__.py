"""The arithmetic of the block: the passes over x, behind three operations and one table.

* ``profile(x)``: means and maxima of rows and columns.
* ``gates(x, channel, coord)``: the small side nets, on numbers of size (B, C, H + W).
* ``apply_gain(x, gain)``: multiply the signal by its gates.

``plain`` is the oracle, written as the notebook writes it. A faster twin is one more row of
:data:`KERNELS`; options and state of the layer do not change with it.
"""

import os

from coordcbam._support.errors import UsageError, nearest
from coordcbam.kernels import plain
from coordcbam.kernels.ops import ChannelNet, CoordNet, Gain, Kernel, Maps, Profile

__all__ = [
    "KERNELS",
    "ChannelNet",
    "CoordNet",
    "Gain",
    "Kernel",
    "Maps",
    "Profile",
    "active",
    "use",
]

KERNELS: dict[str, Kernel] = {
    "plain": Kernel(
        name="plain",
        profile=plain.profile,
        gates=plain.gates,
        apply_gain=plain.apply_gain,
    ),
}


def _named(name: str) -> Kernel:
    if name not in KERNELS:
        raise UsageError(f"kernel {name!r}: expected one of {nearest(name, KERNELS)}")
    return KERNELS[name]


_active = _named(os.environ.get("COORDCBAM_KERNEL", "plain"))


def active() -> Kernel:
    """The kernel every block uses now.

    >>> active().name
    'plain'
    """
    return _active


def use(name: str) -> None:
    """Choose the kernel for every block of this process, by name (or ``COORDCBAM_KERNEL``).

    Raises:
        UsageError: no kernel of that name.
    """
    global _active  # noqa: PLW0603  (one switch for the process, as the environment variable is)
    _active = _named(name)
