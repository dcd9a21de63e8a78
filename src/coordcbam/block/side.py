"""The block's small nets as a kernel meets them: modules, weights, and the weights made once."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coordcbam.block.channel import ChannelGate
from coordcbam.block.coord import CoordGate
from coordcbam.block.fold import NORMS, folded, shape_of, tensors_of
from coordcbam.block.known import Known, known, opaque
from coordcbam.block.unfold import unfolded
from coordcbam.kernels.elementwise import factor
from coordcbam.kernels.ops import Settled
from coordcbam.kernels.passes import Shape
from coordcbam.kernels.side import SideWeights


class Side:
    """Both gates of one block, for one forward.

    Args:
        channel: the channel gate.
        coord: the coordinate gates.
        unit: divides the channel's factor.
    """

    def __init__(self, channel: ChannelGate, coord: CoordGate, unit: float) -> None:
        self.channel = channel
        self.coord = coord
        self.unit = unit
        # A graph that is compiled cannot look things up.
        self._known = None if torch.compiler.is_compiling() else known(channel, coord)

    @property
    def shape(self) -> Shape:
        """How the factors make the gain."""
        return shape_of(self.coord.config)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every parameter and buffer that the weights are made of."""
        known = self._known
        return tensors_of(self.channel, self.coord) if known is None else known.tensors

    @property
    def trains_norm(self) -> bool:
        """Whether a batch norm trains."""
        return self.coord.config.norm == "bn" and any(
            getattr(self.coord, name).training for name in NORMS
        )

    @property
    def signed(self) -> bool:
        """Whether a channel's factor may be negative."""
        config = self.channel.config
        return config.space == "gate" and config.beta is not None and config.beta > 1.0

    @property
    def gates_places(self) -> bool:
        """Whether there is a spatial gate."""
        return self.coord.config.use_spatial_gate

    @property
    def opaque(self) -> str | None:
        """A layer with hooks, or of a kind that is not ours."""
        known = self._known
        return opaque(self.channel, self.coord) if known is None else known.opaque

    def weights(self, tensors: Sequence[Tensor], positions: int) -> SideWeights:
        """The weights, of these tensors: folded where that is less work."""
        mid, channels = self.coord.shared_bottleneck_proj.out_channels, self.coord.channels
        merge = 2 * mid * channels < (channels - mid) * positions
        return folded(self.channel, self.coord, self.unit, tensors, merge=merge)

    def gradients(self, tensors: Sequence[Tensor], by: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Gradients of the tensors from those of the settled weights made of them, by leaf."""
        return unfolded(self.channel, self.coord, self.unit, tensors, by)

    def settled(self) -> Settled:
        """The folded weights, made once until one of the tensors changes."""
        return (self._known or Known(self.channel, self.coord)).settled(self._merged)

    def _merged(self) -> SideWeights:
        return folded(self.channel, self.coord, self.unit, self.tensors, merge=True)

    def temperature(self) -> Tensor:
        """The channel gate's temperature, 0-dim."""
        return self.channel.temperature(self.channel.fc1.weight)

    def spatial(self, x: Tensor, channel: Tensor) -> Tensor:
        """The spatial factor of ``x * channel``: a depthwise layer takes the factor after it."""
        coord = self.coord
        places = coord.spatial_gate_dw(x) * channel[:, :, None, None]
        gate = F.hardsigmoid(coord.spatial_gate_pw(places))
        return factor(gate, coord.config.spatial_gate_beta, coord.config.space)
