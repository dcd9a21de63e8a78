"""What both steps share: the notebook's calls and return tuples over the layers of ``block``."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from coordcbam.block.cbam import CoordCBAM
from coordcbam.block.channel import ChannelGate
from coordcbam.block.checks import check_input
from coordcbam.block.config import BlockConfig, ChannelConfig, CoordConfig
from coordcbam.block.coord import CoordGate
from coordcbam.block.options import Options, OptionTypeError, rules
from coordcbam.block.state import WideBuffers
from coordcbam.block.stats import Stats, summary
from coordcbam.kernels.plain import apply_gain, pool, profile

MonitorStats = dict[str, Any]
MaskStats = dict[str, dict[str, float]]
# Eight fields of Stats are the notebook's monitor_stats.
MONITORED = Stats._fields[:8]


def arguments(scope: dict[str, Any], *without: str) -> dict[str, Any]:
    """A constructor's own arguments, from its ``locals()``.

    >>> arguments({"self": 0, "__class__": 0, "channels": 8, "ca_gate": "sigmoid"}, "channels")
    {'ca_gate': 'sigmoid'}
    """
    skip = {"self", "__class__", *without}
    return {name: value for name, value in scope.items() if name not in skip}


def present(options: Options) -> dict[str, Any]:
    """The mechanisms a part of the config has, under the sub-block's own argument names."""
    names = {"beta": "beta_ca"} if isinstance(options, ChannelConfig) else {}
    values = ((r.name, getattr(options, r.name)) for r in rules(options) if not r.ours)
    return {names.get(name, name): value for name, value in values if value is not None}


def flag(name: str, value: Any) -> bool:
    """``value`` if it is a bool; the notebook takes the string 'False' for True."""
    if not isinstance(value, bool):
        raise OptionTypeError(f"{name}={value!r}: expected True or False")
    return value


class ChannelAdapter(ChannelGate):
    """The channel gate applied to a map, with the notebook's return tuple."""

    def __init__(
        self,
        channels: int,
        config: ChannelConfig,
        *,
        eps: float = 1e-6,
        bias: bool = True,
        return_fusion_weights: bool = False,
    ) -> None:
        super().__init__(channels, config, eps=eps, bias=flag("bias", bias))
        self.return_fusion_weights = flag("return_fusion_weights", return_fusion_weights)

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """``(x * scale, gate, router weights)``."""
        check_input(x, self.channels, self.fc1.weight, block=type(self).__name__)
        gate, fusion, _ = self.gate(*pool(x))
        return x * self.scale(gate), gate, fusion


class CoordAdapter(WideBuffers, CoordGate):
    """The coordinate gates applied to a map; remembers eight numbers of its last masks."""

    _wide = ("mask_stats",)
    mask_stats: Tensor

    def __init__(self, in_channels: int, config: CoordConfig) -> None:
        super().__init__(in_channels, config)
        # A mask is never negative, so -1 stands for "no forward yet".
        self.register_buffer("mask_stats", torch.full((8,), -1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times its row, column and spatial gates, (B, C, H, W)."""
        weight = self.shared_bottleneck_proj.weight
        check_input(x, self.channels, weight, block=type(self).__name__)
        rows, cols = self.masks(profile(x))
        self.remember(rows, cols)
        return apply_gain(self.gain(x, rows, cols))

    @torch.no_grad()
    def remember(self, rows: Tensor, cols: Tensor) -> None:
        """Keep minimum, mean, maximum and std of both masks, for :meth:`last_mask_stats`."""
        numbers = [*summary(rows), *summary(cols)]
        self.mask_stats.copy_(torch.stack([n.to(self.mask_stats) for n in numbers]))

    def last_mask_stats(self) -> MaskStats | None:
        """The last forward's masks as ``{'a_h': {'min', 'mean', 'max', 'std'}, 'a_w': ...}``."""
        numbers = self.mask_stats.tolist()
        if numbers[0] < 0:
            return None
        names = ("min", "mean", "max", "std")
        return {
            "a_h": dict(zip(names, numbers[:4], strict=True)),
            "a_w": dict(zip(names, numbers[4:], strict=True)),
        }


class BlockAdapter(CoordCBAM):
    """The whole block: a tensor, or with ``return_maps`` the notebook's tuple."""

    ca: ChannelAdapter
    coord: CoordAdapter
    _channel_layer: ClassVar[Callable[..., ChannelAdapter]]
    _coord_layer: ClassVar[Callable[..., CoordAdapter]]

    def __init__(self, channels: int, config: BlockConfig, *, return_maps: bool) -> None:
        super().__init__(channels, config)
        self.return_maps = flag("return_maps", return_maps)
        self.ca.return_fusion_weights = self.return_maps

    def _build_channel_layer(self) -> ChannelGate:
        return type(self)._channel_layer(self.channels, **present(self.config.channel))

    def _build_coord_layer(self) -> CoordGate:
        return type(self)._coord_layer(self.channels, **present(self.config.coord))

    @property
    def residual(self) -> bool:
        """Whether the output is mixed with the input."""
        return self.config.mix.residual

    def forward(self, x: Tensor) -> Any:
        """(B, C, H, W), or the tuple that :meth:`with_maps` gives."""
        if self.return_maps:
            return self.with_maps(x)
        if self.bypassed:
            return x
        signal = self._attend(x)
        out = self.blend(signal, lambda: self._described(signal), traced=False)[0]
        maps, _ = signal.looked()
        self.coord.remember(maps.rows, maps.cols)
        return out

    def with_maps(
        self, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, MaskStats | None, MonitorStats | None]:
        """``(out, ca_map, fusion_w, coord_stats, monitor_stats)``; the last only while training."""
        trace = self.trace(x)
        self.coord.remember(trace.coord.rows, trace.coord.cols)
        monitor_stats: MonitorStats | None = None
        if self.training and self.monitor and self.residual and self.rescue is not None:
            numbers = torch.stack(trace.stats[: len(MONITORED)]).tolist()
            monitor_stats = dict(zip(MONITORED, numbers, strict=True))
            monitor_stats["rescue_mode"] = self.rescue.rescue_mode
        return (
            trace.out,
            trace.channel.gate,
            trace.channel.fusion,
            self.coord.last_mask_stats(),
            monitor_stats,
        )
