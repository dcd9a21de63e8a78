"""The blocks' numbers on the host: one transfer for all of them."""

import torch
from torch import nn

from coordcbam.block import Stats
from coordcbam.insert import blocks, label


def read(model: nn.Module) -> dict[str, dict[str, float]]:
    """Each block's last numbers by name, as ``{block: {field: value}}``; NaN before the first.

    The only place where the monitor waits for the device, once whatever the number of blocks.

    >>> from coordcbam import CoordCBAM
    >>> block = CoordCBAM(8)
    >>> block.monitor = True
    >>> _ = block(torch.randn(2, 8, 6, 6))
    >>> read(nn.Sequential(block))["0"]["rho"]
    1.0
    """
    found = blocks(model)
    if not found:
        return {}
    # A model spread over several devices is gathered on the first.
    first = found[0][1].stats
    numbers = torch.stack([block.stats.to(first) for _, block in found]).tolist()
    return {
        label(path): dict(zip(Stats._fields, row, strict=True))
        for (path, _), row in zip(found, numbers, strict=True)
    }
