"""What ``demo`` and ``train`` say at the end: scores, blocks, and where everything was written."""

from pathlib import Path
from typing import Any

from rich.console import Console

from coordcbam.cli.blocks import block_numbers, block_table
from coordcbam.records import read_run
from coordcbam.records.schema import FOLDER

SCORES = ("mAP50", "mAP50-95")


def show_run(save_dir: Path, console: Console) -> dict[str, Any]:
    """Print a finished run's table and paths; return the same for JSON."""
    home = save_dir / FOLDER
    paths = {
        "report": home / "report.html",
        "monitor": home / "monitor.csv",
        "run": home / "run.json",
        "weights": save_dir / "weights" / "best.pt",
        "results": save_dir / "results.csv",
    }
    paths = {name: path for name, path in paths.items() if path.exists()}
    # Another's block without a guard has nothing to read: the training was fine all the same.
    run = read_run(save_dir) if "run" in paths else None
    result = {} if run is None else dict(run.info.result)
    if run is None:
        console.print("no records: these blocks are not watched; --guard SHARE watches them")
    else:
        console.print(block_table(run))
    told = [f"{name} {result[name]:.3f}" for name in SCORES if name in result]
    if told:
        console.print("Validation: " + ", ".join(told), style="bold")
    for name, path in paths.items():
        console.print(f"{name + ':':<9}{path}", soft_wrap=True, highlight=False)
    return {"metrics": result, "blocks": [] if run is None else block_numbers(run), "paths": paths}
