"""The block as timm's own attention layer, in families that hand it more than a width.

``attn_layer=CoordCBAM`` is enough for timm's ResNets; others pass keywords that are about a
squeeze-and-excite layer (``rd_ratio``, ``act_layer``), and draw every convolution anew afterwards.
"""

from typing import Any

import torch
from torch import nn

from coordcbam.block import BlockConfig, CoordCBAM
from coordcbam.insert import blocks


def attention(
    channels: int,
    config: BlockConfig | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **_: Any,
) -> CoordCBAM:
    """A block for ``attn_layer``, ``se_layer`` and ``attn``; what else timm passes is left aside.

    Args:
        channels: width C of the map.
        config: options, by ``functools.partial(attention, config=...)``.
        device: where the block is.
        dtype: of its weights.

    >>> attention(16, rd_ratio=0.25).channels
    16
    """
    return CoordCBAM(channels, config, device=device, dtype=dtype)


def start_afresh_(model: nn.Module) -> int:
    """Make every block of ``model`` the identity again, if that is its config's start; how many.

    For models of timm just after they are made: most draw all convolutions anew.

    >>> start_afresh_(nn.Sequential(CoordCBAM(8)))
    1
    """
    found = [block for _, block in blocks(model) if isinstance(block, CoordCBAM)]
    for block in found:
        block.zero_init_last()
    return len(found)
