"""How much of the signal a block keeps, sample by sample, from five sums and no host sync."""

from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam.block.stats import wide

# A mean square below this is no signal: float32 squares lose their digits there.
SILENCE = 1e-37


class Kept(NamedTuple):
    """What :func:`measure` finds: 0-dim tensors, NaN where no sample tells, and the tally."""

    tally: Tensor  # (3,): sum of rho, number of samples in it, 1 if the batch is unusable
    rho: Tensor  # mean of <x, out> / <x, x>
    rms: Tensor  # mean of |out| / |x|
    x_std: Tensor  # mean standard deviation of the input,
    y_std: Tensor  # of the attended signal
    out_std: Tensor  # and of the mix


def measure(x: Tensor, y: Tensor, alpha: Tensor) -> Kept:
    """Compare ``out = x + alpha * (y - x)`` with x, in float32 or wider.

    ``rho = 1 + alpha * (<x, y> / <x, x> - 1)`` is a mean of the gains, weighted by energy: it never
    leaves their range, as a ratio of standard deviations does, and it is linear in alpha. A sample
    without a signal tells nothing and is left out. A sample whose energy is not finite makes the
    whole batch unusable, and so does a batch without any signal.

    Args:
        x: block input, (B, C, H, W).
        y: attended signal, same shape.
        alpha: share of y in the mix, 0-dim.

    >>> x = torch.tensor([[[[1.0, -1.0]]], [[[0.0, 0.0]]]])
    >>> kept = measure(x, 0.5 * x, torch.tensor(0.5))
    >>> kept.rho, kept.tally
    (tensor(0.7500), tensor([0.7500, 1.0000, 0.0000]))
    """
    alpha, rest = wide(alpha), 1.0 - wide(alpha)
    x, y, unit = _samples(x, y)
    size = max(x.shape[1], 1)
    # Sums of products by hand: a matrix product would round to TF32 or to autocast's dtype.
    xx, xy, yy = (x * x).sum(dim=1), (x * y).sum(dim=1), (y * y).sum(dim=1)
    mixed = rest * rest * xx + 2.0 * alpha * rest * xy + alpha * alpha * yy
    x_mean, y_mean = x.sum(dim=1) / size, y.sum(dim=1) / size

    heard = (xx > SILENCE * size) & (unit > 0.0)
    finite = (xx * unit * unit).isfinite() & xy.isfinite()
    rho = 1.0 + alpha * (xy / xx - 1.0)
    told = heard & finite
    count = told.sum()
    total = torch.where(told, rho, 0.0).sum()
    usable = finite.all() & (count > 0)
    silent = torch.zeros_like(total)
    return Kept(
        tally=torch.where(
            usable,
            torch.stack([total, count.to(total), silent]),
            torch.stack([silent, silent, silent + 1.0]),
        ),
        rho=total / count,
        rms=torch.where(told, (mixed / xx).clamp(min=0.0).sqrt(), 0.0).sum() / count,
        x_std=_deviation(xx / size, x_mean, unit),
        y_std=_deviation(yy / size, y_mean, unit),
        out_std=_deviation(mixed / size, rest * x_mean + alpha * y_mean, unit),
    )


def _samples(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both maps as (B, N) in memory order, in float32 or wider, and the unit each row is in."""
    if x.is_contiguous(memory_format=torch.channels_last):
        x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
    narrow = x.dtype == torch.bfloat16
    x, y = wide(x).flatten(1), wide(y).flatten(1)
    if not narrow:
        return x, y, x.new_ones(x.shape[0])
    # bfloat16 has float32's range, whose squares have not.
    unit = torch.linalg.vector_norm(x, ord=torch.inf, dim=1)
    safe = unit.clamp(min=torch.finfo(x.dtype).tiny)[:, None]
    return x / safe, y / safe, unit


def _deviation(mean_square: Tensor, mean: Tensor, unit: Tensor) -> Tensor:
    """Mean over samples of the standard deviation; for people, so cancellation is no matter."""
    return ((mean_square - mean * mean).clamp(min=0.0).sqrt() * unit).mean()
