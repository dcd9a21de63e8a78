"""The mix of two maps that are there: the oracle's, and a guard's around any block."""

import torch
from torch import Tensor

from coordcbam.kernels.energies import sums


class Pair:
    """``x + alpha * (y - x)``, and what a monitor asks of it."""

    eager = False

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y
        self._change: Tensor | None = None

    @property
    def change(self) -> Tensor:
        """``y - x``, made once; once more where the first had no gradient to pass on."""
        known, learns = self._change, self.x.requires_grad or self.y.requires_grad
        if known is None or (learns and torch.is_grad_enabled() and not known.requires_grad):
            known = self._change = self.y - self.x
        return known

    def mixed(self, alpha: Tensor | None) -> Tensor:
        """The mix, (B, C, H, W); None: y itself."""
        return self.y if alpha is None else self.x + alpha * self.change

    def measured(self, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mix, and the sums."""
        return self.mixed(alpha), self.sums()

    def sums(self, *, exact: bool = False) -> Tensor:
        """The sums of x and y, (5, B)."""
        change = None if self._change is None else self._change.detach()
        return sums(self.x.detach(), self.y.detach(), change, exact=exact)
