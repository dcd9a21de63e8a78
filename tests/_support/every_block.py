"""One of everything that takes a map, by name: presets, notebook classes, guards, attached ones."""

import torch
from torch import nn

import coordcbam as cc
from coordcbam.block import PRESETS
from coordcbam.notebook import step1, step2

CHANNELS = 8
NOTEBOOK = ("CBAMChannelPlusCoord", "ChannelAttentionFusionT", "CoordinateAttPlus")
GUARDS = ("Guard", "guarded")


def _inserted():
    model = nn.Sequential(nn.Identity())
    cc.insert_(model, "0", inputs=torch.ones(1, CHANNELS, 2, 2))
    return model


def _guarded(inner=nn.Tanh):
    model = nn.Sequential(inner())
    cc.guard_(model, "0")
    return model


MAKERS = {
    **{name: lambda n=name: cc.CoordCBAM(CHANNELS, cc.BlockConfig.preset(n)) for name in PRESETS},
    **{
        f"notebook {step}: {name}": lambda m=module, n=name: getattr(m, n)(CHANNELS)
        for step, module in ((1, step1), (2, step2))
        for name in NOTEBOOK
    },
    "inserted": _inserted,
    "Guard": lambda inner=nn.Tanh: cc.Guard(inner()),
    "guarded": _guarded,
}


def monitored(name, *, training=True, **inner):
    """A layer by name, its monitor on if it has one, and the block in it."""
    layer = MAKERS[name](**inner if name in GUARDS else {}).train(training)
    found = cc.blocks(layer)
    for _, block in found:
        block.monitor = True
    return layer, found[0][1] if found else layer
