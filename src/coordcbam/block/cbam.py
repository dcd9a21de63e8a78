"""The block: channel gate, coordinate gates and guarded residual mix."""

from typing import NamedTuple

from torch import Tensor

from coordcbam._support.permanent import permanent
from coordcbam.block.channel import ChannelGate
from coordcbam.block.checks import check_channels, check_input
from coordcbam.block.config import BlockConfig
from coordcbam.block.coord import CoordGate
from coordcbam.block.mix import GuardedResidual
from coordcbam.block.options import OptionTypeError
from coordcbam.block.stats import Stats, describe
from coordcbam.kernels import Maps, active


@permanent
class ChannelMaps(NamedTuple):
    """The channel gate as it was for one batch."""

    gate: Tensor  # (B, C, 1, 1), in [0, 1]
    fusion: Tensor | None  # (B, 2): router weights of mean and maximum; None when summed
    temperature: Tensor  # ()


@permanent
class CoordMaps(NamedTuple):
    """The coordinate masks as they were for one batch."""

    rows: Tensor  # (B, C, H, 1), in [0, 1]
    cols: Tensor  # (B, C, 1, W), in [0, 1]


@permanent
class Trace(NamedTuple):
    """One forward with everything it went through; all tensors, nothing copied to the host."""

    out: Tensor  # (B, C, H, W)
    channel: ChannelMaps
    coord: CoordMaps
    stats: Stats


@permanent
class CoordCBAM(GuardedResidual):
    """``out = x + alpha_eff * (y - x)``, y being x times channel, row and column gates.

    Args:
        channels: width C of the map, 1 or more.
        config: options; the default is ``BlockConfig.step2()``.

    Raises:
        OptionTypeError, OptionValueError: naming field, value and rule.

    ``forward`` takes and returns (B, C, H, W); the result is always a tensor. A wrong input raises
    :class:`InputError` with what was given and what was expected.

    Source: notebook sections 2 and 4; CBAM, arXiv 1807.06521; Coordinate Attention, arXiv
    2103.02907.

    >>> import torch
    >>> block = CoordCBAM(64)
    >>> block(torch.randn(2, 64, 20, 20)).shape
    torch.Size([2, 64, 20, 20])
    >>> block.trace(torch.randn(2, 64, 20, 30)).coord.cols.shape
    torch.Size([2, 64, 1, 30])
    """

    def __init__(self, channels: int, config: BlockConfig | None = None) -> None:
        config = BlockConfig.step2() if config is None else config
        if not isinstance(config, BlockConfig):
            raise OptionTypeError(f"config={config!r}: expected a BlockConfig, e.g. .step2()")
        super().__init__(config.mix, config.rescue)
        self.channels = check_channels(channels)
        self.config = config
        self.ca = self._build_channel_layer()
        self.coord = self._build_coord_layer()

    def _build_channel_layer(self) -> ChannelGate:
        return ChannelGate(self.channels, self.config.channel)

    def _build_coord_layer(self) -> CoordGate:
        return CoordGate(self.channels, self.config.coord)

    def forward(self, x: Tensor) -> Tensor:
        """The attended map, (B, C, H, W)."""
        if self.bypassed:
            return x
        maps, y = self._attend(x)
        return self.blend(x, y, lambda: describe(maps), traced=False)[0]

    def trace(self, x: Tensor) -> Trace:
        """The same forward, with its maps and numbers; buffers change exactly as in ``forward``."""
        maps, y = self._attend(x)
        out, stats = self.blend(x, y, lambda: describe(maps), traced=True)
        assert stats is not None  # a traced blend always measures
        return Trace(
            out=x if self.bypassed else out,
            channel=ChannelMaps(maps.channel, maps.fusion, maps.temperature),
            coord=CoordMaps(maps.rows, maps.cols),
            stats=stats,
        )

    def _attend(self, x: Tensor) -> tuple[Maps, Tensor]:
        """The maps and the attended signal ``y``, before the residual mix."""
        check_input(x, self.channels, self.ca.fc1.weight, block=type(self).__name__)
        kernel = active()
        maps, gain = kernel.gates(x, self.ca, self.coord)
        return maps, kernel.apply_gain(gain)

    def extra_repr(self) -> str:
        """Width, preset and whether it is monitored."""
        return f"{self.channels}, preset={self.config.name!r}, monitor={self.monitor}"
