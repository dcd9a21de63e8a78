"""The notebook's section 8: build the step-2 block, run one batch, show shapes and numbers."""

import dataclasses
from typing import Any

import torch

from coordcbam.notebook.step2 import CBAMChannelPlusCoord

SHAPE = (2, 64, 56, 56)
ARGUMENTS: dict[str, Any] = {
    "channels": 64,
    "return_maps": True,
    "residual": True,
    "learnable_temperature": True,
    "monitor": True,
    "rescue_mode": "ratio_floor",
    "min_rescue_ratio": 0.2,
    "alpha_eff_min": 0.2,
    "r_min": 0.45,
    "ema_momentum": 0.95,
    "beta_ca": 0.35,
    "ca_router_temperature": 1.5,
    "ca_t_min": 0.5,
    "ca_t_max": 3.0,
    "coord_scale_min": 0.6,
    "coord_scale_max": 1.6,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuickTest:
    """What section 8 prints."""

    shapes: dict[str, tuple[int, ...]]
    coord_stats: dict[str, dict[str, float]]
    monitor_stats: dict[str, Any]


def quicktest(seed: int | None = None) -> QuickTest:
    """Run section 8's cell once, with its arguments and its shapes.

    >>> quicktest(seed=0).shapes["ca_map"]
    (2, 64, 1, 1)
    """
    if seed is not None:
        torch.manual_seed(seed)
    x = torch.randn(SHAPE)
    block = CBAMChannelPlusCoord(**ARGUMENTS).train()
    out, ca_map, fusion_w, coord_stats, monitor_stats = block(x)
    tensors = {"x": x, "out": out, "ca_map": ca_map, "fusion_w": fusion_w}
    return QuickTest(
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        coord_stats=coord_stats,
        monitor_stats=monitor_stats,
    )
