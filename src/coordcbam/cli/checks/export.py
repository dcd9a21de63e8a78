"""Is the block in an export? Model, export and bypassed model on the same images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.cli.checks.findings import Finding
from coordcbam.hosts.yolo.exports import exported
from coordcbam.insert import blocks, bypass

SCORE, BOX, AT = 5e-5, 5e-3, 128  # boxes in pixels at that side, in proportion at others
CONTROL = 100  # tolerances between the model and its bypass, or nothing can be told


class Distance(NamedTuple):
    """The largest difference of two outputs: boxes in pixels, and scores."""

    box: float
    score: float


def compare(
    network: nn.Module, file: Path, images: Sequence[Path]
) -> tuple[dict[str, Distance], Distance, list[Finding]]:
    """The three distances, the tolerance, and what they mean.

    Raises:
        UsageError: no blocks to compare, or an image or export that cannot be read.
    """
    if not blocks(network):
        raise UsageError(f"--export {file}: no blocks of coordcbam in the model to compare with")
    run, side = exported(file)
    batch = [_image(image, side) for image in images or _digits()]
    full, made = [_of(network, x) for x in batch], [run(x) for x in batch]
    with bypass(network):
        bare = [_of(network, x) for x in batch]
    if made[0].shape != full[0].shape:
        raise UsageError(
            f"--export {file}: gives {made[0].shape}, the model {full[0].shape}; expected an "
            "export of this very model, without nms"
        )
    distances = {
        "model - export": _apart(full, made),
        "model - bypass": _apart(full, bare),
        "export - bypass": _apart(made, bare),
    }
    tolerance = Distance(BOX * side / AT, SCORE)
    return distances, tolerance, list(_verdict(distances, tolerance, file))


def _verdict(found: dict[str, Distance], allowed: Distance, file: Path) -> list[Finding]:
    near, far, dropped = found.values()
    parity = near.box <= allowed.box and near.score <= allowed.score
    if far.box < CONTROL * allowed.box and far.score < CONTROL * allowed.score:
        what, todo = "cannot tell", "blocks do too little: train them, or give other images"
        measured = f"bypass is {far.score:.1e} away in scores"
    elif dropped.score < near.score and dropped.box < near.box:
        what, todo = "the export has lost its blocks", "export again from this checkpoint"
        measured = f"{dropped.score:.1e} from the bypass, {near.score:.1e} from the model"
    elif not parity:
        what, todo = "the export differs", "export again in float32, or lower precision knowingly"
        measured = f"boxes {near.box:.1e} px, scores {near.score:.1e}"
    else:
        return []
    return [Finding(what=what, where=file.name, measured=measured, todo=todo)]


@torch.no_grad()
def _of(network: nn.Module, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = network(torch.from_numpy(x))
    found: np.ndarray[Any, Any] = (out[0] if isinstance(out, (list, tuple)) else out).numpy()
    return found


def _apart(a: list[np.ndarray[Any, Any]], b: list[np.ndarray[Any, Any]]) -> Distance:
    gap = np.abs(np.concatenate(a) - np.concatenate(b))
    return Distance(float(gap[:, :4].max()), float(gap[:, 4:].max()))


def _image(file: Path, side: int) -> np.ndarray[Any, Any]:
    """The image as the network gets it: resized to the export's side, in [0, 1]."""
    require("PIL", for_what="reading an image")
    from PIL import Image

    try:
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB").resize((side, side)), dtype=np.float32)
    except (OSError, ValueError, ImportError) as error:  # Ultralytics adds readers
        raise UsageError(f"--image {file}: not a readable image ({type(error).__name__})") from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / 255.0)


def _digits() -> list[Path]:
    from coordcbam.data import digits

    return sorted((digits().parent / "images" / "val").glob("*.png"))[:4]
