"""``coordcbam demo``: the main job on embedded data, from nothing to a page, on a CPU."""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.block import PRESETS, BlockConfig

MODEL = "yolo11n.yaml"
PLACES = "P3,P4,P5"
EPOCHS = 12
# Measured on the digits set: see docs/demo.md.
SETTINGS: dict[str, Any] = {
    "imgsz": 128,
    "batch": 8,
    "nbs": 8,  # one optimizer step a batch: 300 images are few
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 1,
    "mosaic": 0.0,
    "fliplr": 0.0,
    "scale": 0.2,
    "device": "cpu",
    "amp": False,
    "workers": 0,
    "plots": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Epochs, preset, seed, folder."""
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default {EPOCHS}")
    parser.add_argument(
        "--preset", default=PRESETS[-1], help=f"one of {', '.join(PRESETS)} (default {PRESETS[-1]})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument(
        "--project", type=Path, default=Path("runs/coordcbam"), help="folder for the run"
    )


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the run is trained, tabled and reported."""
    if args.epochs < 1:
        raise UsageError(f"--epochs {args.epochs}: expected 1 or more")
    if not 0 <= args.seed < 2**32:
        raise UsageError(f"--seed {args.seed}: expected 0 to 2**32 - 1")
    config = BlockConfig.preset(args.preset)
    require(
        "ultralytics", "sklearn", "PIL", "platformdirs", "jinja2", "polars", for_what="the demo"
    )
    # Read when ultralytics is imported: quiet, and never a download.
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    console = Console()
    started = time.monotonic()
    with console.status("making the digits set and the network"):
        model, data, inserted = _prepare(config, args.seed)
    console.print(str(inserted), highlight=False)
    with _bar(console) as bar:
        _follow(model, bar, args.epochs)
        model.train(
            data=str(data),
            epochs=args.epochs,
            seed=args.seed,
            project=str(args.project.resolve()),
            name=f"demo-{args.preset}",
            **SETTINGS,
        )
    from coordcbam.cli.result import show_run

    document = show_run(model.trainer.save_dir, console)
    seconds = time.monotonic() - started
    console.print(f"done in {seconds:.0f} s", highlight=False)
    return 0, {**document, "seconds": seconds, "preset": args.preset, "seed": args.seed}


def _prepare(config: BlockConfig, seed: int) -> tuple[Any, Path, Any]:
    import torch

    from coordcbam.data import digits
    from coordcbam.hosts.ultralytics import YOLO

    data = digits()
    torch.manual_seed(seed)
    model = YOLO(MODEL)
    return model, data, model.insert(PLACES, config)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, {task.fields[said]}"),
        TimeRemainingColumn(),
        console=console,
    )


def _follow(model: Any, bar: Progress, epochs: int) -> None:
    """Move the bar with the training; where there is no terminal, print a line an epoch."""
    task = bar.add_task("train", total=None, said="starting")
    told: set[int] = {epochs}

    def begin(trainer: Any) -> None:
        bar.update(task, total=len(trainer.train_loader) * epochs)

    def step(trainer: Any) -> None:  # noqa: ARG001
        bar.advance(task)

    def epoch(trainer: Any) -> None:
        if trainer.epoch in told:  # fires once more for the final validation
            return
        told.add(trainer.epoch)
        score = trainer.metrics.get("metrics/mAP50(B)", 0.0)
        said = f"epoch {trainer.epoch + 1}/{epochs}, mAP50 {score:.3f}"
        bar.update(task, said=said)
        if not bar.console.is_terminal:
            bar.console.print(said, highlight=False)

    model.add_callback("on_train_start", begin)
    model.add_callback("on_train_batch_end", step)
    model.add_callback("on_fit_epoch_end", epoch)
