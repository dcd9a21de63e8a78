"""``coordcbam report``: a run's page, several runs side by side, or what blocks attend to."""

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from coordcbam._support.errors import UsageError
from coordcbam.cli.blocks import block_table
from coordcbam.records import read_run
from coordcbam.report import build_comparison, build_pictures, build_report
from coordcbam.report.words import LANGUAGES

SIDE_BY_SIDE = Path("comparison.html")
LOOKED_AT = Path("pictures")
_DAY = 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs or the checkpoint, and where to write."""
    parser.add_argument(
        "targets",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run's folder, e.g. runs/detect/train; several for a comparison; or a checkpoint",
    )
    parser.add_argument("-o", "--out", type=Path, default=None, help="the page, or a folder for it")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="the page's language")
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="with a checkpoint: draw its blocks on them",
    )
    parser.add_argument("--imgsz", type=int, default=None, help="with a checkpoint: pixels a side")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=10.0,
        default=None,
        metavar="SECONDS",
        help="build again and again while the run goes on (default every 10)",
    )


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 once the page is written."""
    target = args.targets[0]
    checkpoint = len(args.targets) == 1 and (target.suffix == ".pt" or args.images is not None)
    if checkpoint and not target.exists():
        raise UsageError(f"{target}: no such checkpoint; expected one, such as best.pt")
    if not checkpoint and target.is_file():
        raise UsageError(f"{target}: neither a run's folder nor a checkpoint, such as best.pt")
    if (args.images or args.imgsz) and not (checkpoint and target.is_file()):
        raise UsageError("--images and --imgsz are for a checkpoint: give one, such as best.pt")
    if args.watch is not None and (checkpoint or len(args.targets) > 1):
        raise UsageError("--watch is for one run's folder: give one")
    if args.watch is not None and not 0 < args.watch <= _DAY:
        raise UsageError(f"--watch {args.watch:g}: expected seconds > 0, at most a day")
    if checkpoint:
        return _pictures(args)
    if len(args.targets) > 1:
        page = build_comparison(args.targets, args.out or SIDE_BY_SIDE, lang=args.lang)
        _say(page)
        return 0, {"report": page, "runs": args.targets}
    return _watched(args) if args.watch is not None else _one(args)


def _one(args: argparse.Namespace) -> tuple[int, Any]:
    recorded = read_run(args.targets[0], unrecorded=True)
    page = build_report(args.targets[0], args.out, lang=args.lang)
    console = Console()
    if recorded.blocks():
        console.print(block_table(recorded))
    for problem in recorded.problems:
        console.print(f"note: {problem}", markup=False)
    _say(page)
    return 0, {"report": page, "problems": recorded.problems}


def _watched(args: argparse.Namespace) -> tuple[int, Any]:
    """Build whenever a record changed, until the run has ended or somebody interrupts."""
    folder, seen, page = args.targets[0], None, None
    try:
        while True:
            recorded = read_run(folder, unrecorded=True)
            changed = _changed(recorded.folder)
            going = recorded.info.status == "running"
            if changed != seen or not going:  # which it may have ended in between
                refresh = max(1, round(args.watch)) if going else None
                page = build_report(folder, args.out, lang=args.lang, refresh=refresh)
                steps = recorded.monitor.steps()
                _say(page, f" (step {steps[2]:,})" if steps else "")
                seen = changed
            if not going:
                break
            time.sleep(args.watch)
    except KeyboardInterrupt:  # how one ends it: the page is to stay as it is
        recorded = read_run(folder, unrecorded=True)
        page = build_report(folder, args.out, lang=args.lang)
    return 0, {"report": page, "status": recorded.info.status}


def _changed(folder: Path) -> dict[str, int]:
    """When each record was last written; a writer's temporary files come and go."""
    found = {}
    for path in folder.glob("*"):
        if not path.name.startswith(".") and path.suffix in {".json", ".jsonl", ".csv"}:
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.stat().st_mtime_ns
    return found


def _pictures(args: argparse.Namespace) -> tuple[int, Any]:
    if not args.images:
        raise UsageError(f"{args.targets[0]} is a checkpoint: give --images a.jpg b.jpg to look at")
    from coordcbam._support.extras import require

    require("ultralytics", for_what="looking with a checkpoint")
    from coordcbam.hosts.ultralytics import look_at

    folder = args.out or LOOKED_AT
    if folder.suffix.lower() in {".html", ".htm"}:
        raise UsageError(f"-o {folder}: of a checkpoint expected a folder, for page and pictures")
    pictures = look_at(args.targets[0], args.images, folder, imgsz=args.imgsz)
    page = build_pictures(folder, name=args.targets[0].name, lang=args.lang)
    _say(page)
    return 0, {"report": page, "pictures": pictures}


def _say(page: Path, more: str = "") -> None:
    Console().print(f"report: {page}{more}", soft_wrap=True, highlight=False, markup=False)
