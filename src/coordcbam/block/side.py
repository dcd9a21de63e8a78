"""The block's small nets as a kernel meets them: modules, weights, and the weights made once."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coordcbam.block.channel import ChannelGate
from coordcbam.block.coord import CoordGate
from coordcbam.block.fold import NORMS, folded, shape_of, tensors_of
from coordcbam.block.unfold import unfolded
from coordcbam.kernels.elementwise import factor
from coordcbam.kernels.ops import Settled
from coordcbam.kernels.passes import Shape
from coordcbam.kernels.side import SideWeights

# What a layer may be for its weights to say all that it does.
_PLAIN = (nn.Conv2d, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm, nn.Identity, nn.ReLU)
_Stamp = tuple[tuple[Tensor, ...], tuple[int, ...], tuple[bool, ...]]
# By module and not in it, so that no copy and no checkpoint has them.
_SETTLED: "WeakKeyDictionary[nn.Module, tuple[_Stamp, Settled]]" = WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class Side:
    """Both gates of one block."""

    channel: ChannelGate
    coord: CoordGate
    unit: float

    @property
    def shape(self) -> Shape:
        """How the factors make the gain."""
        return shape_of(self.coord.config)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every parameter and buffer that the weights are made of."""
        return tensors_of(self.channel, self.coord)

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
        for layer in _layers(self.channel, self.coord):
            if layer._forward_hooks or layer._forward_pre_hooks:
                return f"a {type(layer).__name__} inside the block has hooks"
            if type(layer) not in _PLAIN:
                return f"a layer inside the block is a {type(layer).__name__}"
        return None

    def weights(self, tensors: Sequence[Tensor], positions: int) -> SideWeights:
        """The weights, of these tensors: folded where that is less work."""
        mid, channels = self.coord.shared_bottleneck_proj.out_channels, self.coord.channels
        merge = 2 * mid * channels < (channels - mid) * positions
        return folded(self.channel, self.coord, self.unit, tensors, merge=merge)

    def gradients(self, tensors: Sequence[Tensor], by: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Gradients of the tensors from those of the settled weights made of them, by leaf."""
        with _without_autocast(tensors[0].device.type):
            return unfolded(self.channel, self.coord, self.unit, tensors, by)

    @torch.no_grad()
    def settled(self, tensors: tuple[Tensor, ...] | None = None) -> Settled:
        """The folded weights, made once until one of the tensors changes."""
        tensors = self.tensors if tensors is None else tensors
        stamp = self._stamp(tensors)
        known = _SETTLED.get(self.channel)
        if known is not None and stamp is not None and _same(known[0], stamp):
            return known[1]
        with _without_autocast(tensors[0].device.type):
            weights = folded(self.channel, self.coord, self.unit, tensors, merge=True)
        settled = Settled(weights, {})
        if stamp is not None:
            _SETTLED[self.channel] = (stamp, settled)
        return settled

    def _stamp(self, tensors: tuple[Tensor, ...]) -> _Stamp | None:
        """What the weights were made of; None where PyTorch does not count the changes."""
        try:
            versions = tuple(t._version for t in tensors)
        except RuntimeError:  # made in inference mode
            return None
        modes = tuple(getattr(self.coord, name).training for name in NORMS)
        return tensors, versions, modes

    def temperature(self) -> Tensor:
        """The channel gate's temperature, 0-dim."""
        return self.channel.temperature(self.channel.fc1.weight)

    def spatial(self, x: Tensor, channel: Tensor) -> Tensor:
        """The spatial factor of ``x * channel``: a depthwise layer takes the factor after it."""
        coord = self.coord
        places = coord.spatial_gate_dw(x) * channel[:, :, None, None]
        gate = F.hardsigmoid(coord.spatial_gate_pw(places))
        return factor(gate, coord.config.spatial_gate_beta, coord.config.space)


def _without_autocast(kind: str) -> contextlib.AbstractContextManager[Any]:
    """Weights keep their own dtype, whoever asks for them first."""
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def _same(known: _Stamp, now: _Stamp) -> bool:
    return known[1:] == now[1:] and all(a is b for a, b in zip(known[0], now[0], strict=True))


def _layers(*parts: nn.Module) -> Iterator[nn.Module]:
    """The layers of the parts, without what only groups them."""
    for part in parts:
        for layer in part._modules.values():
            if type(layer) is nn.Sequential:
                yield from _layers(layer)
            elif layer is not None:
                yield layer
