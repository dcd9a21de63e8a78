"""What a checkpoint of ours names, for loaders that take nothing else."""

from typing import Any

from coordcbam.block import (
    BlockConfig,
    ChannelConfig,
    ChannelGate,
    CoordCBAM,
    CoordConfig,
    CoordGate,
    DeployedCBAM,
    Guard,
    MixConfig,
    RescueConfig,
)
from coordcbam.hosts.yolo.row import CoordCBAMLayer
from coordcbam.insert import ForeignBlock, attached_block
from coordcbam.notebook import step1, step2


def pickled() -> list[Any]:
    """Classes, and the one function, that pickled networks with blocks may refer to."""
    notebooks = [
        kind
        for step in (step1, step2)
        for kind in (
            step.CBAMChannelPlusCoord,
            step.ChannelAttentionFusionT,
            step.CoordinateAttPlus,
        )
    ]
    return [
        *(CoordCBAM, ChannelGate, CoordGate, DeployedCBAM, Guard, ForeignBlock, CoordCBAMLayer),
        *(BlockConfig, ChannelConfig, CoordConfig, MixConfig, RescueConfig, attached_block),
        *notebooks,
    ]
