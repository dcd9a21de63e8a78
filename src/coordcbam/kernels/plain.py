"""The oracle: the notebook's arithmetic in the notebook's order, one full pass a step.

Slow on purpose. Every faster kernel is compared with this one, outputs and gradients, so nothing
here is reordered: a float32 spread of its output must equal the notebook's bit for bit.
"""

from torch import Tensor

from coordcbam.kernels.elementwise import soften
from coordcbam.kernels.ops import ChannelNet, CoordNet, Gain, Profile, SideNet
from coordcbam.kernels.pair import Pair
from coordcbam.kernels.passes import Factors
from coordcbam.kernels.side import Maps


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


class Plain(Pair):
    """A map and the notebook's attended signal, both in full."""

    def __init__(self, x: Tensor, side: SideNet) -> None:
        self._maps, gain = gates(x, side.channel, side.coord)
        y = apply_gain(gain)
        super().__init__(x, y if side.unit == 1.0 else y / side.unit)
        channel = side.channel.scale(self._maps.channel)[:, :, 0, 0] / side.unit
        self._factors = Factors(channel, gain.rows[..., 0], gain.cols[:, :, 0])

    def looked(self) -> tuple[Maps, Factors]:
        """The maps and the factors."""
        return self._maps, self._factors
