"""``coordcbam bench``: what the block costs on this machine, beside other attention blocks."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from coordcbam._support.errors import UsageError
from coordcbam.bench import (
    NOTEBOOK,
    Case,
    Contender,
    Length,
    Row,
    contenders,
    inference,
    keep_memory,
    layout_from,
    machine,
    over,
    size_from,
    table_of,
    threads,
    training,
    versions,
)

SIZES = ("1x64x80x80", "8x128x40x40", "8x256x20x20")
SECONDS = 3.5  # of a column of a table: half a minute in all
LONGEST = 3600.0
WAYS = {"inference": inference, "training": training}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes, layout, threads and patience."""
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=SIZES,
        metavar="BxCxHxW",
        help=f"maps to measure with (default {' '.join(SIZES)})",
    )
    parser.add_argument("--layout", default="NCHW", help="NCHW (default) or channels_last")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"a measurement (default {SECONDS:g})"
    )


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0: figures are shown, none is judged."""
    cores = os.cpu_count() or 1
    if not 1 <= args.threads <= cores:
        raise UsageError(f"--threads {args.threads}: expected 1 to {cores}")
    if not 0.0 < args.seconds <= LONGEST:
        raise UsageError(f"--seconds {args.seconds:g}: expected more than 0 and up to {LONGEST:g}")
    layout = layout_from(args.layout)
    cases = [Case(size=size_from(text), layout=layout) for text in dict.fromkeys(args.shapes)]
    length = Length(seconds=args.seconds, least=5, most=400, warm_up=2)
    keep_memory()
    console = Console()
    found, missing = contenders()
    for name, reason in missing:
        console.print(f"skipped: {name}, {reason}", markup=False, highlight=False)
    with threads(args.threads):
        rows, about = _measured(cases, found, length, console), machine()
    for mode in WAYS:
        console.print(table_of(mode, rows))
    ours = {row.kernel for row in rows if row.kernel and row.contender != NOTEBOOK}
    console.print(
        f"{about['gpu'] or about['cpu']}, threads: {args.threads}, kernel: {', '.join(ours)}",
        markup=False,
        highlight=False,
    )
    return 0, {
        "machine": about,
        "versions": versions(),
        "rows": [row.cells() for row in rows],
        "over": over(rows),
        "skipped": [{"name": name, "reason": reason} for name, reason in missing],
    }


def _measured(
    cases: Sequence[Case], found: Sequence[Contender], length: Length, console: Console
) -> list[Row]:
    """Every mode with every map, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=len(WAYS) * len(cases))
        for mode, way in WAYS.items():
            for case in cases:
                bar.update(task, description=f"{mode} {case.shape}")
                rows += way(case, found, length, device)
                bar.advance(task)
    return rows
