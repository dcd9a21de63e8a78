"""The four passes in plain PyTorch: every device and dtype."""

import torch
from torch import Tensor

from coordcbam.kernels.passes import Factors, Passes, Shape, Statistics

_NARROW = (torch.float16, torch.bfloat16)


def profile(x: Tensor) -> Statistics:
    """Means and maxima of rows, columns and channels.

    >>> found = profile(torch.tensor([[[[0.0, 2.0], [4.0, 4.0]]]]))
    >>> found.row_mean.flatten(), found.peak.item()
    (tensor([1., 4.]), 4.0)
    """
    row_mean, row_max = x.mean(dim=3), x.amax(dim=3)
    return Statistics(
        mean=row_mean.mean(dim=2),
        peak=row_max.amax(dim=2),
        row_mean=row_mean,
        row_max=row_max,
        col_mean=x.mean(dim=2),
        col_max=x.amax(dim=2),
    )


def scale(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> Tensor:
    """``x * (1 + alpha * (g - 1))``."""
    channel = factors.channel[:, :, None, None]
    strength = alpha * channel
    if shape.clamps:
        return _coordinates(factors, shape).mul_(strength).add_(1.0 - alpha).mul_(x)
    # rest + by is exactly 1 where channel is 1: neutral factors leave x as it is, to the bit.
    by = shape.beta * strength
    rest = 1.0 + alpha * (channel - 1.0) - by
    return torch.addcmul(rest, by * factors.rows[..., None], factors.cols[:, :, None]).mul_(x)


def measure(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the sums that a monitor reads."""
    attended = _coordinates(factors, shape).mul_(factors.channel[:, :, None, None]).mul_(x)
    wide = [t.float() if t.dtype in _NARROW else t for t in (x, attended)]
    return scale(x, factors, shape, alpha), _sums(*wide)


def factor_gradients(
    grad: Tensor, x: Tensor, factors: Factors, shape: Shape, alpha: Tensor
) -> tuple[Factors, Tensor]:
    """Gradients of the factors and of alpha, from sums of ``grad * x``."""
    product = grad * x
    whole = product.sum(dim=(2, 3))
    if shape.clamps:
        k = _coordinates(factors, shape, clamped=False)
        inside = (k >= shape.low) & (k <= shape.high)
        through = (product * k.clamp_(shape.low, shape.high)).sum(dim=(2, 3))
        product.mul_(inside)
    by_cols = (product * factors.cols[:, :, None]).sum(dim=3)
    by_rows = product.mul_(factors.rows[..., None]).sum(dim=2)
    if not shape.clamps:
        through = (1.0 - shape.beta) * whole + shape.beta * (factors.rows * by_cols).sum(dim=2)
    strength = (shape.beta * alpha) * factors.channel[..., None]
    found = Factors(channel=alpha * through, rows=strength * by_cols, cols=strength * by_rows)
    return found, (factors.channel * through - whole).sum()


def input_gradient(
    grad: Tensor,
    x: Tensor,
    factors: Factors,
    shape: Shape,
    alpha: Tensor,
    statistics: Statistics,
    gradients: Statistics,
) -> Tensor:
    """Gradient of x: through the gain, the means and the maxima."""
    height, width = x.shape[2:]
    dx = scale(grad, factors, shape, alpha)
    rows = gradients.row_mean / width + (gradients.mean / (height * width))[..., None]
    dx.add_(rows[..., None]).add_((gradients.col_mean / height)[:, :, None])
    tie = x == statistics.row_max[..., None]
    dx.addcmul_(tie, (gradients.row_max / tie.sum(dim=3))[..., None])
    tie = x == statistics.col_max[:, :, None]
    dx.addcmul_(tie, (gradients.col_max / tie.sum(dim=2))[:, :, None])
    first = x.flatten(2).argmax(dim=2, keepdim=True)
    flat = dx.flatten(2).scatter_add_(2, first, gradients.peak[..., None])
    return flat.view_as(dx)


def _coordinates(factors: Factors, shape: Shape, *, clamped: bool = True) -> Tensor:
    """``k``, (B, C, H, W)."""
    rest = factors.rows.new_full((), 1.0 - shape.beta)
    k = torch.addcmul(rest, shape.beta * factors.rows[..., None], factors.cols[:, :, None])
    return k.clamp_(shape.low, shape.high) if clamped and shape.clamps else k


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """``<x, x>``, ``<x, y>``, ``<y, y>``, ``sum x`` and ``sum y`` of each sample, (5, B)."""
    norms = [torch.linalg.vector_norm(t.flatten(2), dim=2) for t in (x, y, y - x)]
    xx, yy, apart = torch.stack(norms).square().sum(dim=2)
    return torch.stack([xx, 0.5 * (xx + yy - apart), yy, x.sum((1, 2, 3)), y.sum((1, 2, 3))])


PASSES = Passes(
    name="algebra",
    profile=profile,
    scale=scale,
    measure=measure,
    factors=factor_gradients,
    input=input_gradient,
)
