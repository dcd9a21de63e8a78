"""How much of the signal a block keeps, sample by sample, from five sums and no host sync."""

from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam.block.stats import ratio
from coordcbam.kernels.told import tell, tells

# A mean square below this is no signal: float32 squares lose their digits there, and the squares
# of bfloat16, which are added up in float64, there.
SILENCE = {torch.float16: 1e-76, torch.bfloat16: 1e-76}
SILENCE_OF_FLOAT32 = 1e-37
# An output more than 30 times as loud as its input does not tell how much of that is kept.
DROWNED = 1e3


class Told(NamedTuple):
    """What a batch says of the share that is kept, read from one vector when it is asked for."""

    numbers: Tensor  # (6,)

    @property
    def tally(self) -> Tensor:
        """(4,): see :mod:`coordcbam.block.target`."""
        return self.numbers[:4]

    @property
    def rho(self) -> Tensor:
        """Mean of ``<x, out> / <x, x>``, 0-dim; NaN where no sample tells."""
        return self.numbers[4]

    @property
    def rms(self) -> Tensor:
        """Mean of ``|out| / |x|``, 0-dim; NaN likewise."""
        return self.numbers[5]


def listen(
    found: Tensor,
    x: Tensor,
    alpha: Tensor,
    tally: Tensor | None = None,
    *,
    eager: bool = False,
) -> Told:
    """How much ``out = x + alpha * (y - x)`` keeps of x, in float32 or wider.

    ``rho = 1 + alpha * (<x, y> / <x, x> - 1)`` is a mean of the gains, weighted by energy: it never
    leaves their range, as a ratio of standard deviations does, and it is linear in alpha. A sample
    without a signal, or drowned by what the block makes of it, tells nothing and is left out. A
    sample whose energies are not finite makes the whole batch unusable.

    Args:
        found: the sums of x and y, (5, B).
        x: block input, (B, C, H, W), of which the shape and the dtype count.
        alpha: share of y in the mix, 0-dim.
        tally: to which this batch is added, (4,).
        eager: nothing is traced or compiled, so that numbers may be read where they lie.

    >>> from coordcbam.kernels.energies import sums
    >>> x = torch.tensor([[[[1.0, -1.0]]], [[[0.0, 0.0]]]])
    >>> told = listen(sums(x, 0.5 * x), x, torch.tensor(0.5))
    >>> told.tally, told.rho
    (tensor([0.7500, 1.0000, 0.0000, 0.0000]), tensor(0.7500))
    """
    quiet = SILENCE.get(x.dtype, SILENCE_OF_FLOAT32) * max(x.shape[1:].numel(), 1)
    limit = _limit(x.dtype)
    if eager and tells(found, alpha, tally):
        return Told(tell(found, alpha, tally, quiet=quiet, drowned=DROWNED, limit=limit))
    xx, xy, yy = found[:3].unbind()
    alpha = alpha.to(found)
    rho = 1.0 + alpha * (xy / xx - 1.0)
    finite = xx + yy < limit  # a NaN is not
    heard = (xx > quiet) & (yy <= DROWNED * xx) & finite
    whole, count = finite.all().to(xx), heard.sum().to(xx)
    kept = torch.where(heard, rho, 0.0).sum()
    loud = (_mixed(found, alpha) / xx).clamp(min=0.0).sqrt()
    adds = kept * whole, count * whole, 1.0 - whole, whole * (count == 0.0)
    rms = torch.where(heard, loud, 0.0).sum() / count
    told = Told(torch.stack([*adds, kept / count, rms]))
    if tally is not None:
        tally.add_(told.tally.to(tally))
    return told


def deviations(found: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    """Mean over samples of the standard deviations of x, of y and of their mix, (3,)."""
    size = max(x.shape[1:].numel(), 1)
    alpha = alpha.to(found)
    squares = torch.stack([found[0], found[2], _mixed(found, alpha)]) / size
    means = found[3:] / size
    means = torch.cat([means, torch.lerp(means[0], means[1], alpha)[None]])
    variances = squares - means * means
    # What is left of a constant is rounding: its deviation is 0.
    real = variances > 64.0 * torch.finfo(found.dtype).eps * squares
    return torch.where(real, variances, 0.0 * squares).sqrt().mean(dim=1)


def spreads(found: Tensor, x: Tensor, alpha: Tensor) -> list[Tensor]:
    """The first five fields of :class:`Stats`: three deviations and two ratios of them."""
    std = deviations(found, x, alpha)
    return [*std.unbind(), *ratio(std[1:], std[0]).unbind()]


def _mixed(found: Tensor, alpha: Tensor) -> Tensor:
    """Energy of the mix, (B,)."""
    xx, xy, yy = found[:3].unbind()
    rest = 1.0 - alpha
    return rest * rest * xx + 2.0 * alpha * rest * xy + alpha * alpha * yy


def _limit(dtype: torch.dtype) -> float:
    """An energy from here on is an overflow, whatever it was added up in."""
    return torch.inf if dtype == torch.float64 else torch.finfo(torch.float32).max
