"""The oracle: the notebook's arithmetic in the notebook's order, one full pass a step.

Slow on purpose. Every faster kernel is compared with this one, outputs and gradients, so nothing
here is reordered: a float32 spread of its output must equal the notebook's bit for bit.
"""

from torch import Tensor

from coordcbam.kernels.ops import ChannelNet, CoordNet, Gain, Maps, Profile


def profile(x: Tensor) -> Profile:
    """Means and maxima of rows and columns; a tied maximum shares its gradient evenly.

    >>> import torch
    >>> profile(torch.tensor([[[[0.0, 2.0], [4.0, 4.0]]]])).row_mean.flatten()
    tensor([1., 4.])
    """
    return Profile(
        row_mean=x.mean(dim=3, keepdim=True),
        row_max=x.amax(dim=3, keepdim=True),
        col_mean=x.mean(dim=2, keepdim=True),
        col_max=x.amax(dim=2, keepdim=True),
    )


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum of each channel, (B, C, 1, 1) each.

    A tied maximum gives its whole gradient to the first one, as the notebook's AdaptiveMaxPool2d
    does, but by an operation that is deterministic on CUDA too.
    """
    mean = x.mean(dim=(2, 3), keepdim=True)
    peak = x.flatten(2).max(dim=2).values
    return mean, peak[:, :, None, None]


def gates(x: Tensor, channel: ChannelNet, coord: CoordNet) -> tuple[Maps, Gain]:
    """Channel gate from x, then row and column masks from x times that gate's scale."""
    gate, fusion, temperature = channel.gate(*pool(x))
    scaled = x * channel.scale(gate)
    rows, cols = coord.masks(profile(scaled))
    maps = Maps(channel=gate, fusion=fusion, temperature=temperature, rows=rows, cols=cols)
    return maps, coord.gain(scaled, rows, cols)


def apply_gain(gain: Gain) -> Tensor:
    """``scaled * clamp(1 + beta * (rows * cols - 1)) * spatial``, (B, C, H, W).

    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)
    >>> gain = Gain(scaled=one, rows=0.5 * one, cols=one, spatial=None, beta=0.4, clamp=None)
    >>> apply_gain(gain).item()
    0.800000011920929
    """
    scale = soften(gain.rows * gain.cols, gain.beta)
    if gain.clamp is not None:
        scale = scale.clamp(*gain.clamp)
    out = gain.scaled * scale
    return out if gain.spatial is None else out * gain.spatial


def soften(gate: Tensor, beta: float | None) -> Tensor:
    """Pull a gate towards 1: ``1 + beta * (gate - 1)``; ``beta=None`` is the gate itself.

    ``beta=1`` is the same number up to rounding only, so an absent softening is None.

    >>> import torch
    >>> soften(torch.tensor([0.2, 1.0]), 0.5)
    tensor([0.6000, 1.0000])
    """
    return gate if beta is None else 1.0 + beta * (gate - 1.0)
