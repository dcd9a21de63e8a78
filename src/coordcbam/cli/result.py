"""What ``demo`` and ``train`` say at the end: scores, blocks, and where everything was written."""

from pathlib import Path
from typing import Any

from rich.console import Console

from coordcbam.cli.blocks import block_numbers, block_table
from coordcbam.records import read_run
from coordcbam.report.charts import short

SCORES = ("mAP50", "mAP50-95")


def show_run(save_dir: Path, console: Console) -> dict[str, Any]:
    """Print a finished run's table and paths; return the same for JSON."""
    run = read_run(save_dir, unrecorded=True)
    final = run.metrics[-1] if run.metrics else {}
    result = dict(run.info.result) or {
        short(name): value for name, value in final.items() if name.startswith("metrics/")
    }
    paths = {
        "report": run.folder / "report.html",
        "monitor": run.folder / "monitor.csv",
        "run": run.folder / "run.json",
        "weights": save_dir / "weights" / "best.pt",
        "results": save_dir / "results.csv",
    }
    paths = {name: path for name, path in paths.items() if path.exists()}
    if run.blocks():
        console.print(block_table(run))
    else:
        console.print("no block was watched: --guard SHARE watches one that is not ours")
    told = [f"{name} {result[name]:.3f}" for name in SCORES if name in result]
    if told:
        console.print("Validation: " + ", ".join(told), style="bold")
    for name, path in paths.items():
        console.print(f"{name + ':':<9}{path}", soft_wrap=True, highlight=False)
    return {"metrics": result, "blocks": block_numbers(run), "paths": paths}
