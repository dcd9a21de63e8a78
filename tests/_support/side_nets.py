"""Blocks with any weights, in every form that their small nets have, and maps for them."""

import dataclasses

import torch

from _support.shaken import shaken
from coordcbam import BlockConfig, CoordCBAM
from coordcbam.block.fold import folded, tensors_of

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
ALPHA = 0.7
STEP2 = BlockConfig.step2
CONFIGS = {
    "step1": BlockConfig.step1(),
    "step2": STEP2(),
    "step3": BlockConfig.step3(),
    "step3 log": BlockConfig.step3(space="log"),
    "sum": STEP2(ca_fusion="sum", ca_act="silu", ca_gate="hardsigmoid"),
    "router": STEP2(ca_router_temperature=None, ca_fusion_router_hidden=5, beta_ca=0.8),
    "relu": STEP2(coord_act="relu", coord_norm="none", beta_ca=None),
    "silu": STEP2(coord_act="silu", coord_norm="bn", coord_dilation=1),
    "calibrated": STEP2(init="calibrated", coord_dilation=3),
    "far": STEP2(coord_dilation=30, coord_scale_min=None, coord_scale_max=None),
    "lin": STEP2(ca_space="lin", coord_space="lin", coord_reduction=1, ca_reduction=1),
    "log": STEP2(ca_space="log", coord_space="log", coord_scale_max=2.5, coord_min_mid=11),
}
# Every remainder of a vector, of a tile, of a chunk of channels; one pixel, rows of less than four.
SIZES = [
    *((1, 1, 1, 1), (2, 3, 1, 1), (1, 8, 7, 1), (3, 5, 1, 9), (1, 65, 2, 3), (2, 4, 5, 4)),
    *((1, 6, 6, 5), (2, 12, 9, 8), (1, 33, 4, 11), (2, 16, 16, 17), (1, 130, 5, 23)),
    *((2, 64, 20, 20), (1, 31, 40, 33), (1, 7, 47, 100), (1, 9, 2, 530), (1, 3, 200, 6)),
]


@torch.no_grad()
def block_of(channels, config, *, std=0.3):
    """An evaluating block with weights and buffers that are anything but neutral."""
    if config.rescue is not None:
        config = dataclasses.replace(config, rescue=None)
    block = shaken(CoordCBAM(channels, config), std).eval()
    for name, buffer in block.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.3, 2.0)
    return block


def weights_of(block, *, merge=True):
    ca, coord = block.ca, block.coord
    with torch.no_grad():
        return folded(ca, coord, block._unit, tensors_of(ca, coord), merge=merge)


def drawn(size, layout="NCHW"):
    return (2 * torch.randn(size)).contiguous(memory_format=LAYOUTS[layout])


def wide(values):
    return type(values)(*(t.double() for t in values))
