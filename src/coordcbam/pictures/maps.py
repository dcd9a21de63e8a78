"""The gains behind a run's pictures, kept so that a picture can be drawn again in another range."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from coordcbam._support.files import write_atomically
from coordcbam.pictures.colours import Values
from coordcbam.pictures.drawing import Sheet


def save_maps(path: Path, sheets: Mapping[str, Sheet]) -> None:
    """Write the sheet of each picture, by the picture's file."""
    arrays: dict[str, Values] = {
        f"{name}/{field}": getattr(sheet, field)
        for name, sheet in sheets.items()
        for field in Sheet._fields
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_atomically(path, file.getvalue())


def load_maps(path: Path) -> dict[str, Sheet]:
    """What is kept; what cannot be read is not missed, its pictures only stay as they are."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            names = dict.fromkeys(key.rpartition("/")[0] for key in held.files)
            return {n: Sheet(*(held[f"{n}/{field}"] for field in Sheet._fields)) for n in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
