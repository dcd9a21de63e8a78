"""Checkpoints that are whole: a kill at any instant leaves old files or new ones."""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ASIDE = ".saving"  # in weights/: the folder where checkpoints are before they get their names


@contextlib.contextmanager
def aside(trainer: Any) -> Iterator[None]:
    """What ``trainer`` saves meanwhile gets its names when it is whole, ``last.pt`` last.

    ``last.pt`` says from where a run is resumed: all that belongs to it is there before it.
    """
    final, folder = trainer.wdir, empty_aside(trainer)
    _save_in(trainer, folder)
    try:
        yield
        for file in sorted(folder.iterdir(), key=lambda file: file.name == trainer.last.name):
            rename(file, final / file.name)
    finally:
        _save_in(trainer, final)
        shutil.rmtree(folder, ignore_errors=True)


def empty_aside(trainer: Any) -> Path:
    """A folder beside the checkpoints, for one that has no name yet."""
    folder: Path = trainer.wdir / ASIDE
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run has left
    folder.mkdir(parents=True)
    return folder


def _save_in(trainer: Any, folder: Path) -> None:
    trainer.wdir = folder
    trainer.last, trainer.best = folder / trainer.last.name, folder / trainer.best.name


def rename(file: Path, target: Path) -> None:
    """Give a whole file its name, once its bytes are on the disk."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.replace(target)


def stripping_aside(strip: Callable[..., Any]) -> Callable[..., Any]:
    """Ultralytics' ``strip_optimizer``, which writes over the checkpoint, made to replace it."""

    @functools.wraps(strip)
    def strip_optimizer(f: str | Path = "best.pt", s: str = "", *args: Any, **kwargs: Any) -> Any:
        target = Path(s or f)
        aside = target.with_name(f".{target.name}.tmp")
        combined = strip(f, str(aside), *args, **kwargs)
        if combined:
            rename(aside, target)
        return combined

    return strip_optimizer
