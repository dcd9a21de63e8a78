"""What ``demo`` and ``train`` say at the end: scores, blocks, and where everything was written."""

from pathlib import Path
from typing import Any

from rich.console import Console

from coordcbam.cli.blocks import block_numbers, block_table
from coordcbam.records import read_run

SCORES = ("mAP50", "mAP50-95")


def show_run(save_dir: Path, console: Console) -> dict[str, Any]:
    """Print a finished run's table and paths; return the same for JSON."""
    run = read_run(save_dir)
    scores = {name: run.info.result.get(name) for name in SCORES}
    paths = {
        "report": run.folder / "report.html",
        "monitor": run.folder / "monitor.csv",
        "run": run.folder / "run.json",
        "weights": save_dir / "weights" / "best.pt",
        "results": save_dir / "results.csv",
    }
    paths = {name: path for name, path in paths.items() if path.exists()}
    console.print(block_table(run))
    told = [f"{name} {value:.3f}" for name, value in scores.items() if value is not None]
    if told:
        console.print("Validation: " + ", ".join(told), style="bold")
    for name, path in paths.items():
        console.print(f"{name + ':':<9}{path}", soft_wrap=True, highlight=False)
    return {"metrics": dict(run.info.result), "blocks": block_numbers(run), "paths": paths}
