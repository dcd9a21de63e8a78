"""What every host that watches blocks does alike: columns, a check that they ran, the last line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordcbam._support.errors import said
from coordcbam.preflight import cost

PREFIX = "coordcbam/"
LOGGED = ("r_out_pre", "r_ema", "alpha_eff")

Readings = dict[str, dict[str, float]]


class LostBlocksError(RuntimeError):
    """Blocks would be lost, or were found missing, where they should be."""


def columns(readings: Readings) -> dict[str, float]:
    """For a host's own loggers: ``coordcbam/<block>/<name>``.

    >>> columns({"model.16": {"r_out_pre": 0.5, "r_ema": 0.6, "alpha_eff": 0.7, "alpha": 0.8}})
    {'coordcbam/model.16/r_out_pre': 0.5, 'coordcbam/model.16/r_ema': 0.6, \
'coordcbam/model.16/alpha_eff': 0.7}
    """
    return {
        f"{PREFIX}{block}/{name}": values[name]
        for block, values in readings.items()
        for name in LOGGED
    }


def check_ran(readings: Readings) -> None:
    """Raise at the end of an epoch, if a block has not been called in it.

    Raises:
        LostBlocksError: naming it.
    """
    for block, values in readings.items():
        if math.isnan(values["alpha"]):
            raise LostBlocksError(f"the block at {block} never ran in this epoch")


def counted(network: Any, inputs: Callable[[], Any]) -> dict[str, float]:
    """What the blocks cost, for the record; nothing where it cannot be counted.

    >>> counted(None, dict)
    {}
    """
    try:
        return cost(network, inputs())
    except Exception:  # no record is worth a training
        return {}


def told(folder: Path) -> str:
    """Where the run's report is, built now; or its records, and why there is no report."""
    try:
        from coordcbam.report import build_report

        return f"coordcbam report: {build_report(folder)}"
    except Exception as error:  # a package is absent, a disk is full: the training was fine
        return f"coordcbam records in {folder}; no report: {said(error)}"
