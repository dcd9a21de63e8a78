"""What stays known of a block's layers from one forward to the next, until anything changes."""

import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coordcbam.block.channel import ChannelGate
from coordcbam.block.coord import CoordGate
from coordcbam.block.fold import NORMS, tensors_of
from coordcbam.kernels.ops import Settled
from coordcbam.kernels.probe import Probe, probes
from coordcbam.kernels.side import SideWeights

# What a layer may be for its weights to say all that it does.
_PLAIN = (nn.Conv2d, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm, nn.Identity, nn.ReLU)
_TENSORS = (Tensor, nn.Parameter)
_version = operator.attrgetter("_version")
_Stamp: TypeAlias = tuple[list[int], list[int], list[bool]]


class Known:
    """The layers of two gates, their tensors, and the weights made of those.

    A layer or a tensor in another's place, and a hook, are seen by :meth:`holds`. Weights are made
    again when PyTorch has counted a change of a tensor, when its memory is another, and when a
    :class:`Probe` finds other numbers; where no probe can look they are made at every forward.
    """

    def __init__(self, channel: ChannelGate, coord: CoordGate) -> None:
        self.opaque = opaque(channel, coord)
        self.tensors = tensors_of(channel, coord)
        self._roots = channel._modules, coord._modules
        *where, self._things = zip(*_places(channel), *_places(coord), strict=True)
        self._where = tuple(where)  # dictionaries, and names in them
        layers = [layer for _, layer in (*_layers(channel), *_layers(coord))]
        self._hooks = [h for m in layers for h in (m._forward_hooks, m._forward_pre_hooks)]
        self._norms = [m for m in layers if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._real = all(type(t) in _TENSORS for t in self.tensors)
        self._probe: Probe | None = None
        self._stamp: _Stamp | None = None
        self._settled: Settled | None = None

    def holds(self, channel: ChannelGate, coord: CoordGate) -> bool:
        """Whether these are the same layers with the same tensors, and none has a hook."""
        if self._roots[0] is not channel._modules or self._roots[1] is not coord._modules:
            return False
        try:
            if not all(map(operator.is_, map(operator.getitem, *self._where), self._things)):
                return False
        except KeyError:
            return False
        return not any(self._hooks)

    def settled(self, make: Callable[[], SideWeights]) -> Settled:
        """The weights without gradients, made by ``make`` where they are not known."""
        stamp = self._now()
        if stamp is not None and stamp == self._stamp and self._settled and self._unchanged():
            return self._settled
        with torch.no_grad(), _without_autocast(self.tensors[0].device.type):
            settled = Settled(make(), {})
        if stamp is not None and self._look(stamp):
            self._stamp, self._settled = stamp, settled
        return settled

    def _now(self) -> _Stamp | None:
        """What PyTorch says of the tensors; None where it cannot say."""
        if not self._real:
            return None
        try:
            versions = list(map(_version, self.tensors))
            pointers = list(map(Tensor.data_ptr, self.tensors))
        except RuntimeError:  # made in inference mode, or without memory
            return None
        return versions, pointers, [m.training for m in self._norms]

    def _unchanged(self) -> bool:
        return self._probe is not None and self._probe.same()

    def _look(self, stamp: _Stamp) -> bool:
        """Take the numbers of this moment, if there can be a probe.

        The same tensor in other memory may be of another dtype and on another device.
        """
        if self._probe is not None and self._probe.pointers == stamp[1]:
            self._probe.look()
            return True
        able = probes(self.tensors) is None
        self._probe = Probe(self.tensors) if able else None
        return able


# By module and not in it, so that no copy and no checkpoint has them.
_KNOWN: "WeakKeyDictionary[nn.Module, Known]" = WeakKeyDictionary()


def known(channel: ChannelGate, coord: CoordGate) -> Known:
    """What is known of these gates, looked up again if anything in them is another."""
    found = _KNOWN.get(channel)
    if found is not None and found.holds(channel, coord):
        return found
    found = Known(channel, coord)
    if all(t.is_leaf and type(t) in _TENSORS for t in found.tensors):  # no graph is kept alive
        _KNOWN[channel] = found
    return found


def opaque(channel: ChannelGate, coord: CoordGate) -> str | None:
    """A layer with hooks, of a kind that is not ours, or of another form."""
    for name, layer in (*_layers(channel), *_layers(coord)):
        if layer._forward_hooks or layer._forward_pre_hooks:
            return f"a {type(layer).__name__} inside the block has hooks"
        if type(layer) not in _PLAIN:
            return f"a layer inside the block is a {type(layer).__name__}"
        if _is_another(name, layer, coord.config.dilation):
            return f"{name} inside the block is another layer than it was: {layer}"
    return None


def _is_another(name: str, layer: nn.Module, dilation: int) -> bool:
    """Whether a layer in the place of this name is no convolution of the same form."""
    if name in NORMS or name.startswith("spatial_gate") or isinstance(layer, nn.ReLU):
        return False
    if not isinstance(layer, nn.Conv2d):
        return True
    found = layer.kernel_size, layer.padding, layer.stride, layer.padding_mode
    if not name.endswith("_dw"):
        return found != ((1, 1), (0, 0), (1, 1), "zeros") or layer.groups != 1
    reach = dilation if "dilated" in name else 1
    turn = 1 if name.startswith("h") else -1
    wanted = (3, 1)[::turn], (reach, 0)[::turn], (1, 1), "zeros"
    spaced, depthwise = layer.dilation == (reach, 1)[::turn], layer.groups == layer.in_channels
    return found != wanted or not (spaced and depthwise and layer.bias is None)


def _layers(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a part and their names, without what only groups them."""
    for name, layer in part._modules.items():
        if type(layer) is nn.Sequential:
            yield from _layers(layer)
        elif layer is not None:
            yield name, layer


def _places(part: nn.Module) -> Iterator[tuple[dict[str, Any], str, object]]:
    """Everything that a module and those in it hold, and where."""
    for holder in (part._modules, part._parameters, part._buffers):
        for name, value in holder.items():
            yield holder, name, value
    for layer in part._modules.values():
        if layer is not None:
            yield from _places(layer)


def _without_autocast(kind: str) -> contextlib.AbstractContextManager[Any]:
    """Weights keep their own dtype, whoever asks for them first."""
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()
