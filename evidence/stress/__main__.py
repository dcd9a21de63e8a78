"""``make stress``: run, write the results, print the tables."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from evidence.stress import page
from evidence.stress.arms import ARMS
from evidence.stress.run import run, write
from evidence.stress.table import (
    ARM_HEAD,
    PAIR_HEAD,
    SIGNAL_HEAD,
    arm_rows,
    document,
    pair_rows,
    remarks,
    signal_rows,
    versions,
)
from evidence.stress.train import Settings

SEEDS = 6
MOST_SEEDS = 16  # all their sign patterns are tried


def main(words: Sequence[str] | None = None) -> int:
    """Status 0 when all trials ran, whatever they came to; 2 on bad usage."""
    args = _parsed(words)
    settings = Settings(steps=args.steps)
    start = time.monotonic()
    trials = run(list(ARMS), args.seeds, settings, args.jobs)
    made = document(trials, settings, versions())
    files = write(args.out or page.RESULTS.parent, trials, settings, made)
    if args.out is None:
        page.refresh()
        files.append(page.PAGE)
    console = Console(stderr=args.json)
    if not console.is_terminal:  # a log has no width that would have to be kept
        console.width = 120
    for table in tables(made):
        console.print(table)
    for line in remarks(made):
        console.print(line, highlight=False)
    minutes = (time.monotonic() - start) / 60
    console.print(
        f"{len(trials)} trainings in {minutes:.1f} minutes with {args.jobs} jobs, "
        f"{made['cpu_seconds']:.0f} CPU seconds; wrote {', '.join(path.name for path in files)}"
    )
    if args.json:
        json.dump(made, sys.stdout)
        sys.stdout.write("\n")
    return 0


def _parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evidence.stress", description=__doc__)
    parser.add_argument(
        "--seeds", type=_between(2, MOST_SEEDS), default=SEEDS, help=f"an arm (default {SEEDS})"
    )
    parser.add_argument(
        "--steps", type=_between(1, 10**6), default=Settings.steps, help="fewer for a quick look"
    )
    parser.add_argument("--jobs", type=_between(1, 1024), default=2, help="processes (default 2)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the results (default evidence/results, which docs/evidence.md shows)",
    )
    args = parser.parse_args(words)
    if args.out is None and (args.seeds, args.steps) != (SEEDS, Settings.steps):
        parser.error(
            f"--out: needed for another experiment than the published one of {SEEDS} seeds and "
            f"{Settings.steps} steps"
        )
    return args


def tables(made: dict[str, Any]) -> list[Table]:
    """The three tables, for a terminal."""
    found = []
    for title, head, rows in (
        ("What the stack learns", ARM_HEAD, arm_rows(made)),
        ("Signal and gradient", SIGNAL_HEAD, signal_rows(made)),
        ("Pairs", PAIR_HEAD, pair_rows(made)),
    ):
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for name in head:
            table.add_column(name, no_wrap=name in ("arm", "p") or "[" in name)
        for cells in rows:
            table.add_row(*cells)
        found.append(table)
    return found


def _between(low: int, high: int) -> Any:
    def integer(word: str) -> int:
        value = int(word)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value}: expected {low} to {high}")
        return value

    return integer


if __name__ == "__main__":
    sys.exit(main())
