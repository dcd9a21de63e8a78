"""Where an image's objects are, by Ultralytics' convention: ``images/a.jpg``, ``labels/a.txt``."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from coordcbam._support.errors import UsageError, shown

_WHOLE = 1.01  # of a side: what Ultralytics lets pass

Boxes: TypeAlias = list[tuple[float, float, float, float]]  # left, top, right, bottom


def label_file(image: Path) -> Path:
    """Beside the image, or below ``labels`` where the image is below ``images``.

    >>> label_file(Path("set/images/val/a.b.jpg")).as_posix()
    'set/labels/val/a.b.txt'
    """
    folders = list(image.parts[:-1])
    for i in reversed(range(len(folders))):
        if folders[i] == "images":
            folders[i] = "labels"
            break
    return Path(*folders, image.name).with_suffix(".txt")


def labelled(image: Path, task: str) -> Boxes | None:
    """The boxes in an image's label file, as shares of its sides; None where there is no file.

    Raises:
        UsageError: a row that is no label, naming it.
    """
    file = label_file(image)
    if not file.is_file():
        return None
    rows = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        _box(row, f"{file}, line {i}", task) for i, row in enumerate(rows, start=1) if row.strip()
    ]


def of_centres(rows: Iterable[Sequence[float]]) -> Boxes:
    """Boxes of centres and extents.

    >>> of_centres([(0.5, 0.5, 0.5, 1.0)])
    [(0.25, 0.0, 0.75, 1.0)]
    """
    return [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in rows]


def _box(row: str, where: str, task: str) -> tuple[float, float, float, float]:
    """Of a class and a box, of a box with keypoints, or around a polygon."""
    try:
        numbers = [float(word) for word in row.split()][1:]
    except ValueError:
        numbers = []
    boxed = len(numbers) == 4 or (task == "pose" and len(numbers) > 4)
    polygon = len(numbers) >= 6 and len(numbers) % 2 == 0
    if not (boxed or polygon) or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{where}: {shown(row)}: expected a class, then x y width height")
    if max(numbers[:4] if boxed else numbers) > _WHOLE:
        raise UsageError(f"{where}: {shown(row)}: expected shares of the image, from 0 to 1")
    if boxed:
        return of_centres([numbers[:4]])[0]
    x, y = numbers[::2], numbers[1::2]
    return min(x), min(y), max(x), max(y)
