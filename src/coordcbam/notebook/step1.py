"""The notebook's step 1: its three classes with its names, order of arguments and defaults."""

from typing import Any

from torch import Tensor

from coordcbam.block.config import BlockConfig, ChannelConfig, CoordConfig
from coordcbam.notebook.adapters import BlockAdapter, ChannelAdapter, CoordAdapter, arguments


class ChannelAttentionFusionT(ChannelAdapter):
    """``y = x * gate``; the notebook's section 6."""

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        min_hidden: int = 4,
        fusion: str = "softmax",
        gate: str = "sigmoid",
        temperature: float = 0.9,
        learnable_temperature: bool = False,
        eps: float = 1e-6,
        act: str = "relu",
        bias: bool = True,
        fusion_router_hidden: int = 16,
        return_fusion_weights: bool = False,
    ) -> None:
        options = arguments(locals(), "channels", "eps", "bias", "return_fusion_weights")
        config = ChannelConfig.of_step(1, options)
        super().__init__(
            channels, config, eps=eps, bias=bias, return_fusion_weights=return_fusion_weights
        )

    def get_T(self, x: Tensor | None = None) -> Tensor:  # noqa: N802
        """The temperature, a scalar; in the dtype of ``x`` if one is given."""
        return self.temperature(self.fc1.weight if x is None else x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(y, gate)``, or ``(y, gate, router weights)`` when asked for and there is a router."""
        y, gate, fusion = self.attend(x)
        if self.return_fusion_weights and fusion is not None:
            return y, gate, fusion
        return y, gate


class CoordinateAttPlus(CoordAdapter):
    """``out = x * (1 + beta * (s_h * s_w - 1))``; the notebook's section 6."""

    def __init__(
        self,
        in_channels: int,
        reduction: int = 32,
        min_mid_channels: int = 8,
        act: str = "hswish",
        init_alpha: float = 0.7,
        learnable_alpha: bool = True,
        beta: float = 0.35,
        dilation: int = 2,
        norm: str = "gn",
        use_spatial_gate: bool = False,
        spatial_gate_beta: float = 0.35,
    ) -> None:
        config = CoordConfig.of_step(1, arguments(locals(), "in_channels"))
        super().__init__(in_channels, config)


class CBAMChannelPlusCoord(BlockAdapter):
    """The baseline block: ``out = x + alpha * (y - x)``; the notebook's section 6.

    ``forward`` returns a tensor, or with ``return_maps=True`` the tuple
    ``(out, ca_map, fusion_w, coord_stats)``; ``fusion_w`` is None for ``ca_fusion='sum'``, where
    the notebook's own code stops with an error.

    >>> import torch
    >>> block = CBAMChannelPlusCoord(16, ca_fusion="sum", return_maps=True)
    >>> len(block(torch.randn(1, 16, 8, 8)))
    4
    """

    _channel_layer = ChannelAttentionFusionT
    _coord_layer = CoordinateAttPlus

    def __init__(
        self,
        channels: int,
        ca_reduction: int = 16,
        ca_min_hidden: int = 4,
        ca_fusion: str = "softmax",
        ca_gate: str = "sigmoid",
        ca_temperature: float = 0.9,
        ca_act: str = "relu",
        ca_fusion_router_hidden: int = 16,
        learnable_temperature: bool = False,
        coord_reduction: int = 32,
        coord_min_mid: int = 8,
        coord_act: str = "hswish",
        coord_init_alpha: float = 0.7,
        coord_learnable_alpha: bool = True,
        coord_beta: float = 0.35,
        coord_dilation: int = 2,
        coord_norm: str = "gn",
        coord_use_spatial_gate: bool = False,
        coord_spatial_gate_beta: float = 0.35,
        residual: bool = True,
        alpha_init: float = 0.75,
        learnable_alpha: bool = False,
        return_maps: bool = False,
    ) -> None:
        options = arguments(locals(), "channels", "return_maps")
        config = BlockConfig.from_notebook(step=1, **options)
        super().__init__(channels, config, return_maps=return_maps)

    def forward(self, x: Tensor) -> Any:
        """(B, C, H, W), or ``(out, ca_map, fusion_w, coord_stats)`` with ``return_maps``."""
        return self.with_maps(x)[:4] if self.return_maps else super().forward(x)
