"""Attention you can trust in a detector: insert it, watch it, let it rescue itself, report it.

Names are loaded when they are first used (PEP 562), so importing the package costs nothing.

>>> import coordcbam as cc
>>> cc.BlockConfig.step2().coord.beta
0.35
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from coordcbam._support.wake import wake_hosts
from coordcbam._version import __version__

if TYPE_CHECKING:
    from coordcbam.block import (
        BlockConfig,
        ChannelConfig,
        ChannelGate,
        ChannelMaps,
        CoordCBAM,
        CoordConfig,
        CoordGate,
        CoordMaps,
        DeployedCBAM,
        GainCertificate,
        Guard,
        GuardedResidual,
        MixConfig,
        RescueConfig,
        Stats,
        Trace,
        UnreachableRescueWarning,
        certify,
        deploy,
    )
    from coordcbam.hosts.yolo import CoordCBAMLayer
    from coordcbam.insert import (
        ForeignBlock,
        Guarded,
        Guarding,
        Insertion,
        Plan,
        attached_block,
        blocks,
        bypass,
        commit_,
        commit_on_step,
        copy_monitor_state_,
        guard_,
        insert_,
        parameter_groups,
        plan,
        remove_,
    )
    from coordcbam.monitor import Monitor
    from coordcbam.notebook.step2 import (
        CBAMChannelPlusCoord,
        ChannelAttentionFusionT,
        CoordinateAttPlus,
    )
    from coordcbam.preflight import Preflight, preflight

_ROOM_OF = {
    **dict.fromkeys(
        (
            "BlockConfig",
            "ChannelConfig",
            "ChannelGate",
            "ChannelMaps",
            "CoordCBAM",
            "CoordConfig",
            "CoordGate",
            "CoordMaps",
            "DeployedCBAM",
            "GainCertificate",
            "Guard",
            "GuardedResidual",
            "MixConfig",
            "RescueConfig",
            "Stats",
            "Trace",
            "UnreachableRescueWarning",
            "certify",
            "deploy",
        ),
        "coordcbam.block",
    ),
    "CoordCBAMLayer": "coordcbam.hosts.yolo",
    **dict.fromkeys(
        (
            "ForeignBlock",
            "Guarded",
            "Guarding",
            "Insertion",
            "Plan",
            "attached_block",
            "blocks",
            "bypass",
            "commit_",
            "commit_on_step",
            "copy_monitor_state_",
            "guard_",
            "insert_",
            "parameter_groups",
            "plan",
            "remove_",
        ),
        "coordcbam.insert",
    ),
    "Monitor": "coordcbam.monitor",
    **dict.fromkeys(
        ("CBAMChannelPlusCoord", "ChannelAttentionFusionT", "CoordinateAttPlus"),
        "coordcbam.notebook.step2",
    ),
    **dict.fromkeys(("Preflight", "preflight"), "coordcbam.preflight"),
}

__all__ = [
    "BlockConfig",
    "CBAMChannelPlusCoord",
    "ChannelAttentionFusionT",
    "ChannelConfig",
    "ChannelGate",
    "ChannelMaps",
    "CoordCBAM",
    "CoordCBAMLayer",
    "CoordConfig",
    "CoordGate",
    "CoordMaps",
    "CoordinateAttPlus",
    "DeployedCBAM",
    "ForeignBlock",
    "GainCertificate",
    "Guard",
    "Guarded",
    "GuardedResidual",
    "Guarding",
    "Insertion",
    "MixConfig",
    "Monitor",
    "Plan",
    "Preflight",
    "RescueConfig",
    "Stats",
    "Trace",
    "UnreachableRescueWarning",
    "__version__",
    "attached_block",
    "blocks",
    "bypass",
    "certify",
    "commit_",
    "commit_on_step",
    "copy_monitor_state_",
    "deploy",
    "guard_",
    "insert_",
    "parameter_groups",
    "plan",
    "preflight",
    "remove_",
]


class _Package(ModuleType):
    """The package, in which ``preflight`` is the function also when its room is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "preflight" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'coordcbam' has no attribute {name!r}")
    wake_hosts()
    return getattr(importlib.import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
