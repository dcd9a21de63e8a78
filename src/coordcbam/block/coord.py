"""The coordinate gates' side net: which rows and columns to keep, from their profiles."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coordcbam._support.permanent import permanent
from coordcbam.block.bounded import MARGIN, NOTEBOOKS_MARGIN, logit_of
from coordcbam.block.checks import check_channels
from coordcbam.block.config import CoordConfig
from coordcbam.block.options import checked
from coordcbam.kernels import Gain, Profile
from coordcbam.kernels.elementwise import ACTIVATIONS, factor, masked


@permanent
class CoordGate(nn.Module):
    """Row and column masks ``hardsigmoid(head(bottleneck(profile)))``, (B, C, H, 1), (B, C, 1, W).

    A profile is half the mean plus half the maximum; each passes a plain and a dilated depthwise
    tap and a channel mixer, then both share one bottleneck. Parameters, their names and their order
    of construction are the notebook's.

    Args:
        channels: width of the map, 1 or more.
        config: options; the default is step 2's.

    Source: notebook sections 2 and 4B; Coordinate Attention, arXiv 2103.02907.
    """

    alpha_h_raw: Tensor
    alpha_w_raw: Tensor

    def __init__(self, channels: int, config: CoordConfig | None = None) -> None:
        super().__init__()
        self.channels = c = check_channels(channels)
        self.config = config = checked(config, CoordConfig)
        mid = max(config.min_mid_channels, c // config.reduction, 8, min(32, c // 4))
        self.shared_bottleneck_proj = nn.Conv2d(c, mid, 1, bias=False)
        self.shared_bottleneck_norm = _norm(config.norm, mid)
        self.shared_bottleneck_refine = nn.Conv2d(mid, mid, 1, bias=False)
        self.shared_bottleneck_refine_norm = _norm(config.norm, mid)
        self.h_local_dw = _depthwise(c, (3, 1))
        self.w_local_dw = _depthwise(c, (1, 3))
        self.h_dilated_dw = _depthwise(c, (3, 1), config.dilation)
        self.w_dilated_dw = _depthwise(c, (1, 3), config.dilation)
        self.h_channel_mixer = nn.Conv2d(c, c, 1)
        self.w_channel_mixer = nn.Conv2d(c, c, 1)
        self.h_attention_head = nn.Conv2d(mid, c, 1)
        self.w_attention_head = nn.Conv2d(mid, c, 1)
        if config.head_init_std is not None:
            self._calm_heads(config.head_init_std)
        margin = NOTEBOOKS_MARGIN if config.space == "gate" else MARGIN
        raw = logit_of(config.init_alpha, margin)
        for name in ("alpha_h_raw", "alpha_w_raw"):
            if config.learnable_alpha:
                self.register_parameter(name, nn.Parameter(raw.clone()))
            else:
                self.register_buffer(name, raw.clone())
        if config.use_spatial_gate:
            self.spatial_gate_dw = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
            self.spatial_gate_pw = nn.Conv2d(c, c, 1)

    def _calm_heads(self, std: float) -> None:
        """Small weights and no bias in the heads: every mask starts near one half."""
        heads = (self.h_attention_head, self.w_attention_head)
        for head in heads:
            nn.init.normal_(head.weight, mean=0.0, std=std)
        for head in heads:
            if head.bias is not None:
                nn.init.zeros_(head.bias)

    def masks(self, profile: Profile) -> tuple[Tensor, Tensor]:
        """Row mask (B, C, H, 1) and column mask (B, C, 1, W), each in [0, 1]."""
        h = 0.5 * (profile.row_mean + profile.row_max)
        w = 0.5 * (profile.col_mean + profile.col_max)
        h = self.h_channel_mixer(self.h_local_dw(h) + self.h_dilated_dw(h))
        w = self.w_channel_mixer(self.w_local_dw(w) + self.w_dilated_dw(w))
        # Rows and columns share the bottleneck as one long line of H + W positions.
        mid = torch.cat([h, w.permute(0, 1, 3, 2)], dim=2)
        act = ACTIVATIONS[self.config.act]
        mid = act(self.shared_bottleneck_norm(self.shared_bottleneck_proj(mid)))
        mid = act(self.shared_bottleneck_refine_norm(self.shared_bottleneck_refine(mid)))
        h, w = torch.split(mid, [h.shape[2], w.shape[3]], dim=2)
        rows = F.hardsigmoid(self.h_attention_head(h))
        cols = F.hardsigmoid(self.w_attention_head(w.permute(0, 1, 3, 2)))
        return rows, cols

    def gain(self, scaled: Tensor, rows: Tensor, cols: Tensor) -> Gain:
        """The factors the masks stand for, ``(1 - a) + a * mask`` with each mask's strength a.

        The centred spaces have ``1 + a * u`` or ``sqrt(scale_max) ** (a * u)``, u = 2 * mask - 1.

        Args:
            scaled: the map the gain will multiply, (B, C, H, W); the spatial gate reads it.
            rows: row mask, (B, C, H, 1).
            cols: column mask, (B, C, 1, W).
        """
        config = self.config
        spatial = None
        if config.use_spatial_gate:
            spatial = F.hardsigmoid(self.spatial_gate_pw(self.spatial_gate_dw(scaled)))
            spatial = factor(spatial, config.spatial_gate_beta, config.space)
        clamp = None
        if config.scale_min is not None and config.scale_max is not None:
            clamp = (config.scale_min, config.scale_max)
        beta: float | None = config.beta
        if config.space == "log":
            beta, clamp = None, None  # the reach is scale_max by construction
        return Gain(
            scaled=scaled,
            rows=self._factor(rows, self.alpha_h_raw),
            cols=self._factor(cols, self.alpha_w_raw),
            spatial=spatial,
            beta=beta,
            clamp=clamp,
        )

    def _factor(self, mask: Tensor, alpha_raw: Tensor) -> Tensor:
        """One mask as a factor, at its own strength."""
        a = torch.sigmoid(alpha_raw).to(device=mask.device, dtype=mask.dtype)
        return masked(mask, a, self.config.space, self.config.scale_max)

    def extra_repr(self) -> str:
        """Width, and the options that are not the default."""
        return ", ".join(filter(None, (str(self.channels), self.config.changed())))


def _depthwise(channels: int, kernel: tuple[int, int], dilation: int = 1) -> nn.Conv2d:
    """A depthwise tap along the axis where ``kernel`` is 3, padded to keep its length."""
    along_h, along_w = (k > 1 for k in kernel)
    return nn.Conv2d(
        channels,
        channels,
        kernel,
        padding=(dilation * along_h, dilation * along_w),
        dilation=(dilation if along_h else 1, dilation if along_w else 1),
        groups=channels,
        bias=False,
    )


def _norm(kind: str, width: int) -> nn.Module:
    """Batch norm, group norm or nothing; up to 32 channels a group norm has one channel a group."""
    if kind == "bn":
        return nn.BatchNorm2d(width)
    if kind == "none":
        return nn.Identity()
    groups = width if width <= 32 else next(g for g in (32, 16, 8, 4, 2, 1) if width % g == 0)
    return nn.GroupNorm(groups, width)
