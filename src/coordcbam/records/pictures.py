"""What blocks did to chosen images: one entry an image, a block and a stage of training."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam._support.files import write_atomically
from coordcbam.records.schema import plain

PICTURES = "pictures.json"
STAGES = ("before", "after", "now")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What one block did to one image.

    ``file`` is the drawn picture, relative to the run's folder. ``rows`` and ``columns`` are the
    gates along each axis, the mean over channels; ``gain`` the lowest, mean and highest of the
    total gain ``m``; ``kept`` and ``cut`` the channels with the largest and smallest gate, each
    with it; ``objects`` and ``background`` the mean gain inside and outside the labelled boxes,
    NaN where there are none; ``note`` says what is missing.

    Raises:
        UsageError: ``stage`` is another word.

    >>> Picture(image="a.jpg", block="model.16", stage="now", file="pictures/a.jpg").note
    ''
    """

    image: str
    block: str
    stage: str
    file: str
    rows: tuple[float, ...] = ()
    columns: tuple[float, ...] = ()
    gain: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    kept: tuple[tuple[int, float], ...] = ()
    cut: tuple[tuple[int, float], ...] = ()
    objects: float = math.nan
    background: float = math.nan
    note: str = ""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise UsageError(f"Picture.stage={self.stage!r}: expected {', '.join(STAGES)}")


def write_pictures(folder: Path, pictures: Iterable[Picture]) -> None:
    """Replace ``pictures.json`` in the run's folder."""
    document = {"format": 1, "pictures": [plain(asdict(picture)) for picture in pictures]}
    write_atomically(Path(folder) / PICTURES, json.dumps(document, allow_nan=False) + "\n")


def read_pictures(folder: Path, problems: list[str]) -> list[Picture]:
    """The entries of ``pictures.json``; an absent file has none, a bad entry is a problem."""
    path = Path(folder) / PICTURES
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))["pictures"]
        return [_picture(entry) for entry in entries]
    except (
        *(ValueError, KeyError, TypeError, AttributeError),
        *(IndexError, OverflowError, RecursionError),
    ) as error:
        problems.append(f"{path.name} is not readable: {type(error).__name__}: {error}")
        return []


def _picture(raw: Mapping[str, Any]) -> Picture:
    words = {name: str(raw[name]) for name in ("image", "block", "stage", "file")}
    low, mean, high = (float(value) for value in raw["gain"])
    return Picture(
        **words,
        rows=tuple(float(value) for value in raw["rows"]),
        columns=tuple(float(value) for value in raw["columns"]),
        gain=(low, mean, high),
        kept=tuple((int(channel), float(gate)) for channel, gate in raw["kept"]),
        cut=tuple((int(channel), float(gate)) for channel, gate in raw["cut"]),
        objects=float(raw["objects"]),
        background=float(raw["background"]),
        note=str(raw.get("note", "")),
    )
