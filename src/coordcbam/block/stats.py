"""The monitor's numbers: one small vector with named fields, measured without a host sync."""

from typing import NamedTuple

import torch
from torch import Tensor

from coordcbam._support.permanent import permanent
from coordcbam.kernels import Maps


@permanent
class Stats(NamedTuple):
    """What a block did to one batch; every field a scalar tensor, NaN where it does not apply.

    The first eight are the notebook's ``monitor_stats``; what its section 9 reads of the maps
    follows, then what the target rescue measures. ``std`` is the mean over samples of each sample's
    standard deviation.
    """

    x_std: Tensor  # of the input
    y_std: Tensor  # of the attended signal
    out_std_pre: Tensor  # after the alpha mix, before the rescue
    r_block: Tensor  # y_std / x_std, in [0, 10]
    r_out_pre: Tensor  # out_std_pre / x_std, in [0, 10]: the number the reading rules are about
    r_ema: Tensor  # its running average; under "target", the average of rho before this batch
    alpha: Tensor
    alpha_eff: Tensor  # after the rescue
    ca_mean: Tensor
    ca_min: Tensor
    ca_max: Tensor
    fusion_avg: Tensor  # mean router weight of the average branch
    fusion_max: Tensor  # and of the maximum branch
    a_h_min: Tensor
    a_h_mean: Tensor
    a_h_max: Tensor
    a_h_std: Tensor
    a_w_min: Tensor
    a_w_mean: Tensor
    a_w_max: Tensor
    a_w_std: Tensor
    T: Tensor
    gain_mean: Tensor  # mean factor of the gates, loud and silent channels alike, before the clamp
    rho: Tensor  # <x, out> / <x, x> before the rescue: what r_ema averages under "target"
    rms: Tensor  # |out| / |x| before the rescue
    skipped: Tensor  # optimizer steps whose batches were unusable, so far


def spread(x: Tensor) -> Tensor:
    """``mean_b std(x_b)``, in float32 whatever the dtype (the notebook's measure), 0-dim.

    >>> spread(torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]]))
    tensor(0.5000)
    """
    if x.shape[0] == 0:  # an empty batch has no spread: NaN, without torch's warning
        return torch.full((), torch.nan, device=x.device)
    return x.float().flatten(1).std(dim=1, unbiased=False).mean()


def ratio(after: Tensor, before: Tensor) -> Tensor:
    """``after / before`` of two spreads, in [0, 10]; the 1e-12 keeps a constant input finite."""
    return (after / (before + 1e-12)).clamp(0.0, 10.0)


def summary(mask: Tensor) -> list[Tensor]:
    """Minimum, mean, maximum and sample standard deviation; 0 for a single element.

    >>> summary(torch.tensor([0.25, 0.75]))
    [tensor(0.2500), tensor(0.5000), tensor(0.7500), tensor(0.3536)]
    """
    mask = wide(mask)
    if mask.numel() == 0:
        return [mask.new_full((), float("nan"))] * 4
    mean, (low, high) = mask.mean(), mask.aminmax()
    # In two passes: torch's own std is as exact and much slower.
    std = torch.linalg.vector_norm(mask - mean) / max(mask.numel() - 1, 1) ** 0.5
    return [low, mean, high, std]


def describe(maps: Maps) -> list[Tensor]:
    """The fields of :class:`Stats` that describe the maps, from ``ca_mean`` to ``T``."""
    ca_min, ca_mean, ca_max, _ = summary(maps.channel)
    if maps.fusion is None:
        fusion = [torch.full_like(ca_mean, float("nan"))] * 2
    else:
        fusion = list(wide(maps.fusion).mean(dim=0).unbind())
    masks = [*summary(maps.rows), *summary(maps.cols)]
    return [ca_mean, ca_min, ca_max, *fusion, *masks, wide(maps.temperature)]


def wide(x: Tensor) -> Tensor:
    """``x`` in its own dtype, or in float32 if that is wider."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
