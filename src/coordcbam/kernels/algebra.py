"""The four passes in plain PyTorch: every device and dtype."""

import torch
from torch import Tensor

from coordcbam.kernels.energies import sums
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
    """``x * (1 + alpha * (g - 1))``; differentiable."""
    channel = factors.channel[:, :, None, None]
    strength = alpha * channel
    if shape.clamps:
        return _times(x, (1.0 - alpha) + strength * coordinates(factors, shape))
    # rest + by is exactly 1 where channel is 1: neutral factors leave x as it is, to the bit.
    by = shape.beta * strength
    rest = 1.0 + alpha * (channel - 1.0) - by
    return _times(x, torch.addcmul(rest, by * factors.rows[..., None], factors.cols[:, :, None]))


def measure(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the sums that a monitor reads."""
    gain = coordinates(factors, shape) * factors.channel[:, :, None, None]
    wide = x.float() if x.dtype in _NARROW else x
    return scale(x, factors, shape, alpha), sums(x, wide * gain)


def factor_gradients(
    grad: Tensor, x: Tensor, factors: Factors, shape: Shape, alpha: Tensor
) -> tuple[Factors, Tensor]:
    """Gradients of the factors and of alpha, from sums of ``grad * x``."""
    product = grad * x
    whole = product.sum(dim=(2, 3))
    if shape.clamps:
        k = _unclamped(factors, shape)
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


def coordinates(factors: Factors, shape: Shape) -> Tensor:
    """``k``, (B, C, H, W)."""
    k = _unclamped(factors, shape)
    return k.clamp(shape.low, shape.high) if shape.clamps else k


def _unclamped(factors: Factors, shape: Shape) -> Tensor:
    rest = factors.rows.new_full((), 1.0 - shape.beta)
    return torch.addcmul(rest, shape.beta * factors.rows[..., None], factors.cols[:, :, None])


def _times(x: Tensor, gain: Tensor) -> Tensor:
    """The product in the layout of x, in the memory of the gain where that is nobody else's."""
    recorded = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if recorded or gain.requires_grad or x.requires_grad or not x.is_contiguous():
        return x * gain
    return gain.mul_(x)


PASSES = Passes(
    name="algebra",
    profile=profile,
    scale=scale,
    measure=measure,
    factors=factor_gradients,
    input=input_gradient,
)
