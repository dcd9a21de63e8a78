"""The notebook's step 2: its three classes with its names, order of arguments and defaults."""

from torch import Tensor

from coordcbam.block.config import BlockConfig, ChannelConfig, CoordConfig
from coordcbam.notebook.adapters import BlockAdapter, ChannelAdapter, CoordAdapter, arguments


class ChannelAttentionFusionT(ChannelAdapter):
    """``y = x * (1 + beta_ca * (gate - 1))`` with T clamped; the notebook's sections 4A and 7."""

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
        t_min: float = 0.5,
        t_max: float = 3.0,
        router_temperature: float = 1.5,
        beta_ca: float = 0.35,
    ) -> None:
        options = arguments(locals(), "channels", "eps", "bias", "return_fusion_weights")
        options["beta"] = options.pop("beta_ca")
        config = ChannelConfig.of_step(2, options)
        super().__init__(
            channels, config, eps=eps, bias=bias, return_fusion_weights=return_fusion_weights
        )

    def get_T(self, x: Tensor) -> Tensor:  # noqa: N802
        """The clamped temperature, a scalar in the dtype of ``x``."""
        return self.temperature(x)

    def forward(self, x: Tensor) -> tuple[Tensor | None, ...]:
        """``(y, gate)``, or ``(y, gate, router weights or None)`` when asked for."""
        y, gate, fusion = self.attend(x)
        return (y, gate, fusion) if self.return_fusion_weights else (y, gate)


class CoordinateAttPlus(CoordAdapter):
    """``out = x * clamp(1 + beta * (s_h * s_w - 1))``; the notebook's sections 4B and 7."""

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
        scale_min: float = 0.6,
        scale_max: float = 1.6,
        head_init_std: float = 0.01,
    ) -> None:
        config = CoordConfig.of_step(2, arguments(locals(), "in_channels"))
        super().__init__(in_channels, config)


class CBAMChannelPlusCoord(BlockAdapter):
    """The stabilised block with monitor and rescue; the notebook's sections 4C and 7.

    ``forward`` returns a tensor, or with ``return_maps=True`` the tuple
    ``(out, ca_map, fusion_w, coord_stats, monitor_stats)``; ``monitor_stats`` is None outside
    training, without ``monitor`` and without ``residual``.

    ``rescue_mode='alpha_floor'`` is not the more aggressive mode the notebook calls it: at the
    default numbers its floor is 0.20, where ``'ratio_floor'`` goes down to 0.15.

    >>> import torch
    >>> block = CBAMChannelPlusCoord(16, monitor=True, return_maps=True)
    >>> out, ca_map, fusion_w, coord_stats, monitor_stats = block(torch.randn(2, 16, 8, 8))
    >>> list(monitor_stats)[-2:]
    ['alpha_eff', 'rescue_mode']
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
        ca_t_min: float = 0.5,
        ca_t_max: float = 3.0,
        ca_router_temperature: float = 1.5,
        beta_ca: float = 0.35,
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
        coord_scale_min: float = 0.6,
        coord_scale_max: float = 1.6,
        coord_head_init_std: float = 0.01,
        residual: bool = True,
        alpha_init: float = 0.75,
        learnable_alpha: bool = False,
        monitor: bool = False,
        r_min: float = 0.45,
        ema_momentum: float = 0.95,
        min_rescue_ratio: float = 0.2,
        alpha_eff_min: float = 0.2,
        rescue_mode: str = "ratio_floor",
        return_maps: bool = False,
    ) -> None:
        options = arguments(locals(), "channels", "return_maps")
        config = BlockConfig.from_notebook(step=2, **options)
        super().__init__(channels, config, return_maps=return_maps)
