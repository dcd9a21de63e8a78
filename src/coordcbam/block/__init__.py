"""The layer: options, gates, residual mix with monitor and rescue, trace, certificate, guard."""

from coordcbam.block.cbam import (
    ChannelMaps,
    CoordCBAM,
    CoordMaps,
    Trace,
    UnreachableRescueWarning,
)
from coordcbam.block.certificate import GainCertificate, certify
from coordcbam.block.channel import ChannelGate
from coordcbam.block.checks import InputError, InputTypeError
from coordcbam.block.config import (
    PRESETS,
    BlockConfig,
    ChannelConfig,
    CoordConfig,
    MixConfig,
    RescueConfig,
    all_rules,
)
from coordcbam.block.coord import CoordGate
from coordcbam.block.deploy import DeployedCBAM, deploy
from coordcbam.block.guard import Guard
from coordcbam.block.mix import GuardedResidual
from coordcbam.block.options import OptionTypeError, OptionValueError, Rule
from coordcbam.block.stats import Stats

__all__ = [
    "PRESETS",
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
    "InputError",
    "InputTypeError",
    "MixConfig",
    "OptionTypeError",
    "OptionValueError",
    "RescueConfig",
    "Rule",
    "Stats",
    "Trace",
    "UnreachableRescueWarning",
    "all_rules",
    "certify",
    "deploy",
]
