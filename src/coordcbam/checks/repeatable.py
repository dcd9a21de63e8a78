"""Operations whose backward on CUDA gives other numbers every time, in attention that is not ours.

Source: the list at ``torch.use_deterministic_algorithms``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from coordcbam.checks.findings import Finding

# As PyTorch's dispatcher calls them: an average over everything, AdaptiveAvgPool2d(1), is a mean.
UNREPEATABLE = {
    "_adaptive_avg_pool2d": "AdaptiveAvgPool2d",
    "_adaptive_avg_pool3d": "AdaptiveAvgPool3d",
    "adaptive_max_pool2d": "AdaptiveMaxPool2d",
    "adaptive_max_pool3d": "AdaptiveMaxPool3d",
    "avg_pool3d": "AvgPool3d",
    "fractional_max_pool2d": "FractionalMaxPool2d",
    "fractional_max_pool3d": "FractionalMaxPool3d",
    "grid_sampler_2d": "grid_sample",
    "grid_sampler_3d": "grid_sample",
    "max_pool3d_with_indices": "MaxPool3d",
    "reflection_pad1d": "ReflectionPad1d",
    "reflection_pad3d": "ReflectionPad3d",
    "replication_pad1d": "ReplicationPad1d",
    "replication_pad2d": "ReplicationPad2d",
    "replication_pad3d": "ReplicationPad3d",
    "upsample_bicubic2d": "bicubic interpolation",
    "upsample_linear1d": "linear interpolation",
    "upsample_trilinear3d": "trilinear interpolation",
}


class _Heard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of all operations that are run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def unrepeatable(where: str, module: nn.Module, inputs: tuple[Any, ...]) -> Iterator[Finding]:
    """What of that list ``module`` runs for these inputs."""
    with _Heard() as heard:
        module(*inputs)
    names = {UNREPEATABLE[name] for name in heard.names if name in UNREPEATABLE}
    if names:
        yield Finding(
            what="training on CUDA does not repeat",
            where=where,
            measured=f"{', '.join(sorted(names))} in {type(module).__name__}",
            todo="use amax or mean over the places, or accept runs that differ",
        )
