"""``coordcbam quicktest``: the notebook's section 8, read by its section 9."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from coordcbam._support.errors import UsageError
from coordcbam.notebook.quicktest import quicktest
from coordcbam.records import read_row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One seed."""
    parser.add_argument("--seed", type=int, default=None, help="torch seed, for equal numbers")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0: the test shows numbers, it judges none."""
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed {args.seed}: expected 0 to 2**63 - 1")
    result = quicktest(args.seed)
    console = Console()
    for name, shape in result.shapes.items():
        console.print(f"{name}: {shape}", highlight=False)
    masks = Table("mask", "min", "mean", "max", "std", title="coord_stats")
    for name, stats in result.coord_stats.items():
        masks.add_row(name, *(f"{stats[key]:.4f}" for key in ("min", "mean", "max", "std")))
    console.print(masks)
    numbers = Table("number", "value", title="monitor_stats")
    for name, value in result.monitor_stats.items():
        numbers.add_row(name, value if isinstance(value, str) else f"{value:.4f}")
    console.print(numbers)
    reading = read_row(result.monitor_stats)
    console.print(f"Reading by section 9: {reading.text}")
    return 0, {
        "shapes": result.shapes,
        "coord_stats": result.coord_stats,
        "monitor_stats": result.monitor_stats,
        "reading": reading,
    }
