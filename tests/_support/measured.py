"""All that is measured of two maps and their mix, as one tuple."""

from typing import NamedTuple

from torch import Tensor

from coordcbam.block.energy import deviations, listen
from coordcbam.kernels.energies import sums


class Kept(NamedTuple):
    tally: Tensor
    rho: Tensor
    rms: Tensor
    std: Tensor


def measure(x, y, change, alpha):
    found = sums(x, y, change)
    told = listen(found, x, alpha)
    return Kept(told.tally, told.rho, told.rms, std=deviations(found, x, alpha))
