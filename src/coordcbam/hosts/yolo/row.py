"""A block as a row of a model file: ``[-1, 1, CoordCBAMLayer, ["ch", "f", {preset: step3}]]``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from coordcbam._support.errors import UsageError, shown
from coordcbam._support.permanent import permanent
from coordcbam.block import PRESETS, BlockConfig, CoordCBAM, all_rules
from coordcbam.insert import Foreign, ForeignBlock
from coordcbam.insert.attach import attach
from coordcbam.insert.making import make

DEFAULT = "step3"
_OF_A_FOREIGN = ("block", "options", "r_min")


@permanent
class CoordCBAMLayer(nn.Module):
    """A layer that is nothing but its block, which is attached to it as to any other layer.

    Args:
        ch: the widths of all layers so far; a model file's ``"ch"``.
        f: the layer that is read; a model file's ``"f"``.
        options: ``preset``, ``monitor`` and the block's options by their notebook names; or
            ``block``, ``options`` and ``r_min`` of a block that is not ours.

    Raises:
        UsageError: arguments that are not those, or unknown options.

    >>> CoordCBAMLayer([16, 32], 1, {"preset": "step2", "beta_ca": 0.5}).ccattn.config.name
    'step2'
    """

    def __init__(self, ch: Sequence[int], f: int, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if isinstance(f, bool) or not isinstance(f, int) or not isinstance(ch, Sequence):
            raise UsageError(
                f"CoordCBAMLayer({shown(ch)}, {shown(f)}): expected the row's arguments to begin "
                'with ["ch", "f", and the row to read one layer'
            )
        attach(self, block_of(options or {}, ch[f]))

    def forward(self, x: Tensor) -> Tensor:
        """The map itself; the block comes after it."""
        return x


def block_of(options: Mapping[str, Any], channels: int) -> CoordCBAM | ForeignBlock:
    """The block that a row's options describe.

    Raises:
        UsageError: unknown options, or values outside their range.
    """
    if not isinstance(options, Mapping):
        raise UsageError(f"CoordCBAMLayer: {shown(options)}: expected a mapping of options")
    given = dict(options)
    monitor = given.pop("monitor", True)
    if not isinstance(monitor, bool):
        raise UsageError(f"CoordCBAMLayer.monitor={shown(monitor)}: expected true or false")
    if "block" in given:
        unknown = set(given) - set(_OF_A_FOREIGN)
        if unknown:
            names = ", ".join(_OF_A_FOREIGN)
            raise UsageError(f"CoordCBAMLayer: {sorted(unknown)}: with a block, expected {names}")
        foreign = Foreign.of(given["block"], given.get("options"), given.get("r_min"))
        return make(foreign, channels, monitor=monitor)
    config = BlockConfig.preset(given.pop("preset", DEFAULT)).replace(**given)
    return make(config, channels, monitor=monitor)


def options_of(block: BlockConfig | Foreign, *, monitor: bool = True) -> dict[str, Any]:
    """The inverse: a preset and what differs from it, as plain data.

    >>> options_of(BlockConfig.step2(beta_ca=0.5))
    {'preset': 'step2', 'beta_ca': 0.5}
    """
    watched = {} if monitor else {"monitor": False}
    if isinstance(block, Foreign):
        given = {"block": block.word, "options": dict(block.options), "r_min": block.r_min}
        return {key: value for key, value in given.items() if value not in ({}, None)} | watched
    found = [_differences(block, BlockConfig.preset(name)) for name in PRESETS]
    name, flags = min(zip(PRESETS, found, strict=True), key=lambda pair: _length(pair[1]))
    return {"preset": name, **(flags or {}), **watched}


def _differences(config: BlockConfig, preset: BlockConfig) -> dict[str, Any] | None:
    """The options by flag that make ``config`` of ``preset``; None where none do."""
    if (config.rescue is None) != (preset.rescue is None):
        return None
    flags = {}
    for part, rule in all_rules():
        ours, theirs = (getattr(getattr(c, part), rule.name, None) for c in (config, preset))
        if ours != theirs and rule.flag != "monitor":
            flags[rule.flag] = ours
    return flags


def _length(flags: dict[str, Any] | None) -> float:
    return math.inf if flags is None else len(flags)
