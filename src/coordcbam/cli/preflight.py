"""``coordcbam preflight key=value ...``: what blocks would do to a YOLO, before it is trained."""

import argparse
import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coordcbam._support.errors import MissingExtraError, UsageError
from coordcbam._support.files import check_writable, write_atomically
from coordcbam.cli.placing import DEFAULT_PLACES
from coordcbam.cli.words import add_words, prepared
from coordcbam.report import build_preflight
from coordcbam.report.words import LANGUAGES

FILE, PAGE = "preflight.json", "preflight.html"
BLOCKS = "none,step1,step2,step3,timm:cbam,timm:se,ultralytics:CBAM"
IMAGES, SEEDS = 64, 3
MEASURED = 16  # images whose signal is followed; the score is of all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The places, the blocks, how often and on how much; words for Ultralytics."""
    add_words(parser, "model=best.pt, data=, imgsz=, split=")
    parser.add_argument(
        "--at",
        default=DEFAULT_PLACES,
        metavar="PLACES",
        help=f"P3,P4,P5, neck, backbone, layer indices (default {DEFAULT_PLACES})",
    )
    parser.add_argument(
        "--blocks",
        default=BLOCKS,
        metavar="WORDS",
        help=f"presets, timm:NAME, ultralytics:NAME, package.module:Class (default {BLOCKS})",
    )
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help=f"drawings of a block's weights (default {SEEDS})"
    )
    parser.add_argument(
        "--images", type=int, default=IMAGES, help=f"to score with, unseen (default {IMAGES})"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FOLDER", help=f"where to write {FILE} and {PAGE}"
    )
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="the page's language")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0: a block that harms is a measurement, not a failure."""
    _check(args)
    model, arguments = prepared(args.words, "preflight")
    from coordcbam.bench import threads
    from coordcbam.hosts.ultralytics import resolve, scoring
    from coordcbam.hosts.yolo.scoring import predictions
    from coordcbam.preflight import candidates, preflight, tables_of

    console = Console()
    places = [f"model.{index}" for index in resolve(model.model, args.at)]
    candidates(args.blocks)  # raises before the data is looked at, which may take long
    data = arguments.pop("data")
    with console.status(f"reading {args.images} images"):
        score = scoring(model, data, images=args.images, **arguments)
    with _bar(console) as bar, threads(score.threads), _frozen():
        task = bar.add_task("", total=None)
        found = preflight(
            model.model.to(score.device),
            [score.some(MEASURED)],
            at=places,
            blocks=args.blocks,
            score=score,
            outputs=predictions,
            seeds=args.seeds,
            about=_about(model, data, score),
            progress=lambda done, total, what: bar.update(
                task, completed=done, total=total, description=what
            ),
        )
    for table in tables_of(found):
        console.print(table)
    console.print(found.verdict, markup=False, highlight=False, style="bold")
    for note in found.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    document = found.to_dict()
    if args.out is not None:
        _write(document, args.out, args.lang, console)
    return 0, document


def _check(args: argparse.Namespace) -> None:
    """Raise for numbers and a folder that cannot be, before anything is loaded."""
    for name in ("seeds", "images"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)}: expected 1 or more")
    if args.out is None and args.lang != "en":
        raise UsageError(f"--lang {args.lang} is for the page: say where it goes with -o FOLDER")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out {args.out}: expected a folder")
    if args.out is not None:
        check_writable(args.out.absolute())


def _about(model: Any, data: Any, score: Any) -> dict[str, Any]:
    """What the document says of the model and the data."""
    return {
        "model": str(model.ckpt_path or model.model_name),
        "task": model.task,
        "data": str(data),
        "score": score.name.removeprefix("metrics/"),
        "images": score.images,
        "imgsz": score.imgsz,
    }


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Garbage is looked for in what is new alone: the copies of the model set off collections."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _write(document: dict[str, Any], folder: Path, lang: str, console: Console) -> None:
    """Write the document, and its page if the packages for that are there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, json.dumps(document, indent=2) + "\n")
        written = f"{folder / FILE}"
        try:
            written += f", {build_preflight(document, folder / PAGE, lang=lang)}"
        except MissingExtraError as missing:
            written += f"; {missing}"
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written: {error}") from None
    console.print(f"preflight: {written}", soft_wrap=True, highlight=False, markup=False)
