"""How much of the signal a block keeps, sample by sample, from five sums and no host sync."""

from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam.block.stats import wide

# A mean square below this is no signal: float32 squares lose their digits there.
SILENCE = 1e-37
# An output more than 30 times as loud as its input does not tell how much of that is kept.
DROWNED = 1e3


class Told(NamedTuple):
    """What a batch says of the share that is kept."""

    tally: Tensor  # (4,): see block.target
    rho: Tensor  # (), mean of <x, out> / <x, x>; NaN where no sample tells


class Kept(NamedTuple):
    """The same with what people want to know besides; NaN where no sample tells."""

    tally: Tensor
    rho: Tensor
    rms: Tensor  # (), mean of |out| / |x|
    std: Tensor  # (3,): mean standard deviation of the input, of the attended signal, of the mix


def listen(x: Tensor, y: Tensor, change: Tensor, alpha: Tensor) -> Told:
    """How much ``out = x + alpha * (y - x)`` keeps of x, in float32 or wider.

    ``rho = 1 + alpha * (<x, y> / <x, x> - 1)`` is a mean of the gains, weighted by energy: it never
    leaves their range, as a ratio of standard deviations does, and it is linear in alpha. A sample
    without a signal, or drowned by what the block makes of it, tells nothing and is left out. A
    sample whose energies are not finite makes the whole batch unusable.

    Args:
        x: block input, (B, C, H, W).
        y: attended signal, same shape.
        change: ``y - x``, which the mix has at hand.
        alpha: share of y in the mix, 0-dim.

    >>> x = torch.tensor([[[[1.0, -1.0]]], [[[0.0, 0.0]]]])
    >>> listen(x, 0.5 * x, -0.5 * x, torch.tensor(0.5))
    Told(tally=tensor([0.7500, 1.0000, 0.0000, 0.0000]), rho=tensor(0.7500))
    """
    size = max(x.shape[1:].numel(), 1)
    x, y, change, unit = _samples(x, y, change)
    return _told(_energies(x, y, change), wide(alpha), size, unit)[0]


def measure(x: Tensor, y: Tensor, change: Tensor, alpha: Tensor) -> Kept:
    """What :func:`listen` finds, and the other numbers of the same mix."""
    alpha, rest = wide(alpha), 1.0 - wide(alpha)
    size = max(x.shape[1:].numel(), 1)
    x, y, change, unit = _samples(x, y, change)
    energies = _energies(x, y, change)
    told, heard = _told(energies, alpha, size, unit)
    xx, yy, apart = energies.unbind()
    mixed = rest * xx + alpha * yy - (alpha * rest) * apart
    rms = torch.where(heard, (mixed / xx).clamp(min=0.0).sqrt(), 0.0).sum() / heard.sum()
    mean_squares = torch.stack([xx, yy, mixed]) / size
    return Kept(*told, rms=rms, std=_deviations(x, y, mean_squares, alpha, unit))


def _told(energies: Tensor, alpha: Tensor, size: int, unit: Tensor | None) -> tuple[Told, Tensor]:
    """What the energies tell, and which samples tell it, (B,)."""
    xx, yy, apart = energies.unbind()
    rho = 1.0 + alpha * (0.5 * (yy - xx - apart) / xx)
    heard = (xx > SILENCE * size) & (yy <= DROWNED * xx)
    total = energies.sum(dim=0)
    if unit is not None:
        heard, total = heard & (unit > 0.0), total * unit * unit
    finite = total < torch.inf  # a NaN is not
    whole, heard = finite.all().to(xx), heard & finite
    count, kept = heard.sum().to(xx), torch.where(heard, rho, 0.0).sum()
    tally = torch.stack([kept * whole, count * whole, 1.0 - whole, whole * (count == 0.0)])
    return Told(tally=tally, rho=kept / count), heard


def _samples(x: Tensor, y: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The maps as (B, rows, columns) in memory order, in float32 or wider, and each sample's unit.

    The unit is None for maps that are as wide already.
    """
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    if x.is_contiguous(memory_format=torch.channels_last):
        x, y, change = (t.permute(0, 2, 3, 1) for t in (x, y, change))
    x, y = wide(x).flatten(2), wide(y).flatten(2)
    if not narrow:
        return x, y, wide(change).flatten(2), None
    # bfloat16 has float32's range, whose squares have not; and a narrow change is a rounded one.
    unit = torch.linalg.vector_norm(x, ord=torch.inf, dim=(1, 2))
    safe = unit.clamp(min=torch.finfo(x.dtype).tiny)[:, None, None]
    x, y = x / safe, y / safe
    return x, y, y - x, unit


def _energies(*signals: Tensor) -> Tensor:
    """Sum of squares of each signal's samples, (signals, B).

    A norm is one pass over memory where a product and its sum are three; a matrix product would
    round to TF32 or to autocast's dtype. Row by row, so that long sums keep their digits.
    """
    norms = [torch.linalg.vector_norm(signal, dim=2) for signal in signals]
    return torch.stack(norms).square().sum(dim=2)


def _deviations(
    x: Tensor, y: Tensor, mean_squares: Tensor, alpha: Tensor, unit: Tensor | None
) -> Tensor:
    """Mean over samples of three standard deviations; for people, so cancellation is no matter."""
    size = max(x.shape[1:].numel(), 1)
    means = torch.stack([x.sum(dim=(1, 2)), y.sum(dim=(1, 2))]) / size
    means = torch.cat([means, torch.lerp(means[0], means[1], alpha)[None]])
    std = (mean_squares - means * means).clamp(min=0.0).sqrt()
    return (std if unit is None else std * unit).mean(dim=1)
