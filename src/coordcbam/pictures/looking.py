"""Look at chosen images through the blocks of a model: pictures, and what they show in numbers."""

import math
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from coordcbam._support.errors import UsageError, shown
from coordcbam._support.extras import require
from coordcbam.pictures.capture import capture
from coordcbam.pictures.gates import Gates
from coordcbam.pictures.regions import contrast
from coordcbam.pictures.shot import Shot
from coordcbam.records.pictures import STAGES, Picture

CHANNELS = 5  # that are named as most kept, and as most cut


def look(
    model: nn.Module, images: Iterable[Shot], folder: str | Path, *, stage: str = "now"
) -> list[Picture]:
    """Draw what each block does to each image; the model and the random numbers stay as they are.

    Writes ``<folder>/pictures/*.jpg`` and ``<folder>/pictures.json``. The pictures of a stage
    replace those that the folder had of it; all stages of a block have one range of colours.

    Args:
        model: any module with blocks that can be called with one image.
        images: what it is called with, one after the other.
        folder: of the run; made where it is not there.
        stage: "before" or "after" a training, or "now".

    Returns:
        One entry an image and block.

    Raises:
        UsageError: a wrong ``stage``, no or equally named images, no blocks in the model, or one
            that does not run.
        MissingExtraError: Pillow or NumPy is absent.
    """
    require("PIL", "numpy", for_what="looking at images")
    from coordcbam.pictures.book import Book

    if stage not in STAGES:
        raise UsageError(f"look: stage={shown(stage)}: expected {', '.join(STAGES)}")
    shots = list(images)
    _check(shots)
    caught = capture(model, (shot.tensor for shot in shots))
    book = Book(Path(folder), stage)
    for shot, each in zip(shots, caught, strict=True):
        book.add(shot, each)
    pictures = [
        _picture(shot, name, gates, stage, book.file(shot.name, name))
        for shot, each in zip(shots, caught, strict=True)
        for name, gates in each.items()
    ]
    book.write(pictures)
    return pictures


def _check(shots: list[Shot]) -> None:
    for shot in shots:
        if not isinstance(shot, Shot):
            raise UsageError(f"look: images has {shown(shot)}: expected Shots")
    names = [shot.name for shot in shots]
    if not names:
        raise UsageError("look: no images; expected one Shot or more")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"look: two images are named {twice!r}: expected a name for each")


def _picture(shot: Shot, block: str, gates: Gates, stage: str, file: str) -> Picture:
    objects, background, why = contrast(gates.gain, shot)
    known = gates.gain[~gates.gain.isnan()]
    nothing = "" if known.numel() else "no gain: its input is 0 or not finite everywhere"
    numbers = {} if nothing else {"gain": _ends(known)}
    return Picture(
        image=shot.name,
        block=block,
        stage=stage,
        file=file,
        rows=tuple(gates.rows.tolist()),
        columns=tuple(gates.columns.tolist()),
        kept=_extreme(gates.channels, descending=True),
        cut=_extreme(gates.channels, descending=False),
        objects=objects,
        background=background,
        note="; ".join(filter(None, (gates.note, why, nothing))),
        **numbers,
    )


def _ends(known: Tensor) -> tuple[float, float, float]:
    return known.min().item(), known.mean().item(), known.max().item()


def _extreme(channels: Tensor, *, descending: bool) -> tuple[tuple[int, float], ...]:
    """The channels with the largest or smallest gates; none is in both, but the only one."""
    values, order = channels.sort(descending=descending, stable=True)
    known = [(int(i), float(v)) for i, v in zip(order, values, strict=True) if not math.isnan(v)]
    return tuple(known[: min(CHANNELS, max(1, len(known) // 2))])
