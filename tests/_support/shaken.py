"""Blocks that do something: fresh ones of step 3 return their input."""

import torch
from torch import nn

from coordcbam import BlockConfig, CoordCBAM


@torch.no_grad()
def shaken(block: nn.Module, std: float = 0.3) -> nn.Module:
    """Every parameter drawn anew, wide enough that gates open and close."""
    for parameter in block.parameters():
        parameter.normal_(std=std)
    return block


@torch.no_grad()
def closed(block: CoordCBAM, logit: float = -50.0) -> CoordCBAM:
    """Every gate at ``sigmoid(logit / T)`` or the hard mask of ``logit``, whatever the input."""
    for last in (block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head):
        last.weight.zero_()
        last.bias.fill_(logit)
    return block


def step3(channels: int = 8, *, monitor: bool = True, **flags) -> CoordCBAM:
    """A training block of step 3 with some options changed, by flag."""
    config = BlockConfig.step3()
    block = CoordCBAM(channels, config.replace(**flags) if flags else config).train()
    block.monitor = monitor
    return block
