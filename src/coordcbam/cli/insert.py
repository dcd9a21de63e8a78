"""``coordcbam insert``: a model file with blocks as rows, or a checkpoint with blocks in it."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.cli.placing import DEFAULT_PLACES, add_placing, block_from, inserted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source, target, and what goes where."""
    parser.add_argument("source", help="a model file or checkpoint: yolo11s.yaml, yolo11s.pt")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="yolo11s-coordcbam.yaml: a row a block; or a .pt: a checkpoint whose keys stay",
    )
    parser.add_argument(
        "--no-redirect",
        action="store_true",
        help="in a model file: only the next layer reads the block, others what it reads",
    )
    parser.add_argument("--no-monitor", action="store_true", help="the blocks measure nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    add_placing(parser)


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the file is written."""
    require("ultralytics", for_what="inserting into a YOLO")
    from coordcbam.hosts.ultralytics import opened, write_model

    out: Path = args.out
    block, at, monitor = block_from(args), args.at or DEFAULT_PLACES, not args.no_monitor
    if out.suffix not in {".yaml", ".yml", ".pt"}:
        raise UsageError(f"--out {out}: expected a name that ends with .yaml or .pt")
    if out.exists() and not args.overwrite:
        raise UsageError(f"--out {out}: it is there already; choose another or give --overwrite")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: no folder {out.parent}")
    model = opened(args.source, to="insert into")
    if out.suffix == ".pt":
        if args.no_redirect:
            raise UsageError("--no-redirect is for model files: in a checkpoint all read the block")
        done = inserted(model, at, block, monitor=monitor)
        _save(model, out)
        planned, kept = done.plan, f"{done.kept}/{done.total}"
    else:
        redirect = not args.no_redirect
        planned = write_model(model, out, at, block, monitor=monitor, redirect=redirect)
        kept = None
        print(planned)
    train = f"coordcbam train {shlex.quote(f'model={out}')} data=..."
    weights = Path(args.source)
    if weights.suffix != ".pt":  # those that Ultralytics publishes for this file
        weights = Path(f"{weights.stem}.pt")
    if not kept:
        train += f" {shlex.quote(f'pretrained={weights}')}"
    print(f"{out}: train it with  {train}")
    rows = [
        {"layer": row.layer, "path": row.path, "channels": row.channels, "added": row.parameters}
        for row in planned.rows
    ]
    return 0, {"file": str(out), "places": rows, "kept": kept}


def _save(model: Any, out: Path) -> None:
    try:
        model.save(out)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--out {out} cannot be written: {error}") from None
