"""What the block costs beside other attention blocks, in every mode, written as one CSV.

    python benchmarks/run.py [--modes inference training ...] [--shapes 8x64x80x80 ...]
        [--layouts NCHW channels_last] [--threads 1] [--seconds 5] [--quick] [--name cpu]

Everyone takes turns in the same rounds, with a ``copy_`` of x among them: the unit of the ratios.
``inference``, ``training`` and ``onnx`` are times of single blocks; ``saved`` and ``peak`` are
bytes over those of x; ``yolo`` is what blocks at P3, P4 and P5 add to a YOLO11n at 640, eager and
in ONNX Runtime; ``monitor`` is a training step that is watched over one that is not.
COORDCBAM_KERNEL chooses the kernel of our blocks. Rows are in ``benchmarks/results/<name>.csv``.
"""

import argparse
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# Before they are imported: neither may look for updates or tell of its start.
os.environ.setdefault("YOLO_OFFLINE", "1")
os.environ.setdefault("YOLO_AUTOINSTALL", "0")
os.environ.setdefault("YOLO_VERBOSE", "false")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coordcbam._support.errors import UsageError
from coordcbam.bench import (
    LAYOUTS,
    MODES,
    SIZES,
    Detector,
    Host,
    Job,
    Length,
    Row,
    contenders,
    jobs,
    keep_memory,
    layout_from,
    modes_from,
    size_from,
    table_of,
    threads,
    write_csv,
)
from coordcbam.block import BlockConfig

RESULTS = Path(__file__).parent / "results"
FULL = Length(seconds=5.0, least=15, most=400, warm_up=3)
QUICK = Length(seconds=0.3, least=3, most=50, warm_up=1)
QUICK_SIZES = ((1, 256, 20, 20), (8, 128, 40, 40))


def detector(config: BlockConfig | None) -> Detector:
    """A YOLO11n for inference, with blocks of ``config`` at P3, P4 and P5, or without."""
    from coordcbam.hosts.ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO("yolo11n.yaml")
    if config is not None:
        model.insert("P3,P4,P5", config)

    def export(folder: Path) -> Path:
        saved = folder / "model.pt"
        model.save(saved)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the tracer, which Ultralytics exports by
            exported = YOLO(saved).export(
                format="onnx", imgsz=640, simplify=False, device="cpu", verbose=False
            )
        return Path(exported)

    network = model.model
    return Detector(network.eval(), export)


def measured(work: Sequence[Job], console: Console) -> tuple[list[Row], int]:
    """All rows, and how many jobs failed; what is there when someone interrupts is kept."""
    rows: list[Row] = []
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        jobs_done = bar.add_task("jobs", total=len(work))
        seconds = bar.add_task("", total=sum(job.weight for job in work))
        for job in work:
            bar.update(seconds, description=job.title)
            try:
                rows += job.run()
            except KeyboardInterrupt:
                console.print(f"interrupted at {job.title}", markup=False)
                return rows, failed + 1
            except Exception as error:  # one job's trouble is not the others'
                failed += 1
                text = " ".join(f"{type(error).__name__}: {error}".split())
                console.print(f"failed: {job.title}, {text}", markup=False, highlight=False)
            bar.advance(seconds, job.weight)
            bar.advance(jobs_done)
    return rows, failed


def main() -> int:
    """Measure, print the tables and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--modes", nargs="+", default=MODES, help=", ".join(MODES))
    parser.add_argument("--shapes", nargs="+", metavar="BxCxHxW")
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, help=f"a measurement (default {FULL.seconds:g})")
    parser.add_argument("--quick", action="store_true", help="two maps and few rounds")
    parser.add_argument("--name", help="of the file (default cpu, or quick)")
    args = parser.parse_args()
    try:
        modes = modes_from(args.modes)
        sizes = [size_from(text) for text in dict.fromkeys(args.shapes or ())]
        layouts = [layout_from(text) for text in dict.fromkeys(args.layouts)]
    except UsageError as error:
        parser.error(str(error))
    if args.threads < 1:
        parser.error(f"--threads {args.threads}: expected 1 or more")
    sizes = sizes or list(QUICK_SIZES if args.quick else SIZES)
    length = QUICK if args.quick else FULL
    if args.seconds:
        length = Length(seconds=args.seconds, least=5, most=400, warm_up=2)
    console = Console()
    keep_memory()
    with threads(args.threads):
        found, missing = contenders()
        work, left_out = jobs(modes, sizes, layouts, found, length, host())
        for name, reason in (*missing, *left_out):
            console.print(f"skipped: {name}, {reason}", markup=False, highlight=False)
        rows, failed = measured(work, console)
        path = RESULTS / f"{args.name or ('quick' if args.quick else 'cpu')}.csv"
        write_csv(path, rows)
    for mode in dict.fromkeys(row.mode for row in rows):
        console.print(table_of(mode, rows))
    console.print(f"{len(rows)} rows in {path}", soft_wrap=True, highlight=False)
    return int(failed > 0)


def host() -> Host | None:
    """Who builds a detector, if Ultralytics is there."""
    return None if importlib.util.find_spec("ultralytics") is None else detector


if __name__ == "__main__":
    sys.exit(main())
