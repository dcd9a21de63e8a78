"""``coordcbam report RUN``: rebuild a run's page from its records."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from coordcbam.cli.blocks import block_table
from coordcbam.records import read_run
from coordcbam.report import build_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's folder and where to write."""
    parser.add_argument("run", type=Path, help="a run's folder, e.g. runs/detect/train")
    parser.add_argument("-o", "--out", type=Path, default=None, help="the page to write")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 once the page is written."""
    recorded = read_run(args.run)
    page = build_report(args.run, args.out)
    console = Console()
    console.print(block_table(recorded))
    for problem in recorded.problems:
        console.print(f"note: {problem}", markup=False)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
    return 0, {"report": page, "problems": recorded.problems}
