"""Is the block in an export? Model, export and bypassed model on the same images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.checks.distance import BOX, SCORE, Array, Distance, apart, head_of, layout_of
from coordcbam.checks.findings import Finding
from coordcbam.hosts.yolo.exports import exported
from coordcbam.insert import bypass, switches

AT = 128  # pixels of a side at which BOX holds; in proportion at others
HALF = 100  # so many a float16 export needs: 50 were measured, a box edge has steps of 1 / 16
# Tolerances of a float32 export, and of this one, between model and bypass, or nothing is told.
CONTROL, CONTROL_OF_THIS = 100, 10


class Compared(NamedTuple):
    """What ``check --export`` measured."""

    distances: dict[str, Distance]
    tolerance: Distance
    words: str  # what the tolerance is for
    found: list[Finding]


def compare(network: nn.Module, file: Path, images: Sequence[Path]) -> Compared:
    """The three distances, the tolerance, and what they mean.

    Raises:
        UsageError: no blocks to compare, or an image or export that cannot be read.
    """
    if not switches(network):
        raise UsageError(f"--export {file}: no blocks of coordcbam in the model to compare with")
    export = exported(file)
    height, width = size = export.size or _trained_at(network)
    batch = [_image(image, size) for image in images or _digits()]
    made = [export.run(x) for x in batch]
    full = _outputs(network, batch)
    head = head_of(network)
    if made[0].shape != full[0].shape and isinstance(getattr(head, "end2end", None), bool):
        head.end2end = not head.end2end  # such a head has two outputs, of which an export has one
        full = _outputs(network, batch)
    if made[0].shape != full[0].shape:
        raise UsageError(
            f"--export {file}: gives {made[0].shape}, the model {full[0].shape}; expected an "
            "export of this very model, without nms"
        )
    layout = layout_of(network, full[0], str(file))
    with bypass(network):
        bare = _outputs(network, batch)
    distances = {
        "model - export": apart(full, made, layout),
        "model - bypass": apart(full, bare, layout),
        "export - bypass": apart(made, bare, layout),
    }
    base = Distance(BOX * max(height, width) / AT, SCORE)
    allowed = base.times(HALF if export.half else 1)
    words = f"{export.words}, {height}x{width}" + (f": {HALF} x float32's" if export.half else "")
    return Compared(distances, allowed, words, _verdicts(distances, base, allowed, file.name))


def _verdicts(
    distances: dict[str, Distance], base: Distance, allowed: Distance, name: str
) -> list[Finding]:
    """What is found by the distances; a tolerance is one of a float32 export, or of this one."""
    near, far, dropped = distances.values()

    def finding(what: str, measured: str, todo: str) -> Finding:
        return Finding(what=what, where=name, measured=measured, todo=todo)

    found = []
    if far.over(base) < CONTROL or far.over(allowed) < CONTROL_OF_THIS:
        measured = f"bypassed it moves {far.box:.1e} px, {far.score:.1e} in scores"
        todo = "the blocks do too little here: train them, or give --image"
        found.append(finding("cannot tell", measured, todo))
    elif dropped.over(allowed) < near.over(allowed):
        measured = f"{dropped.score:.1e} from the bypass, {near.score:.1e} from the model"
        return [finding("the export has lost its blocks", measured, "export again from this file")]
    if not near.over(allowed) <= 1.0:  # also where it is not a number
        measured = f"{near.box:.1e} px, {near.score:.1e} in scores"
        todo = "not of these weights, or of less precision: export again"
        found.append(finding("the export differs", measured, todo))
    return found


def _outputs(network: nn.Module, batch: Sequence[Array]) -> list[Array]:
    return [_of(network, x) for x in batch]


@torch.no_grad()
def _of(network: Callable[..., Any], x: Array) -> Array:
    out = network(torch.from_numpy(x))
    first = out[0] if isinstance(out, (list, tuple)) else out
    if not isinstance(first, torch.Tensor):
        raise UsageError(f"--export: the model gives a {type(first).__name__}; expected a detector")
    found: Array = first.numpy()
    return found


def _trained_at(network: nn.Module) -> tuple[int, int]:
    """The side that a checkpoint was trained at, or Ultralytics' own."""
    arguments = getattr(network, "args", {})
    side = arguments.get("imgsz", 640) if isinstance(arguments, dict) else 640
    return int(side), int(side)


def _image(file: Path, size: tuple[int, int]) -> Array:
    """The image as the network gets it: resized to the export's size, in [0, 1]."""
    require("PIL", for_what="reading an image")
    from PIL import Image

    try:
        _check_is_image(file)
        with Image.open(file) as opened:
            resized = opened.convert("RGB").resize(size[::-1])
            pixels = np.asarray(resized, dtype=np.float32)
    except (OSError, ValueError, ImportError) as error:  # Ultralytics adds readers
        raise UsageError(f"--image {file}: not a readable image ({type(error).__name__})") from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / 255.0)


def _check_is_image(file: Path) -> None:
    """Before it is opened: Ultralytics makes opening one of an unknown kind install packages.

    Raises:
        ValueError: no reader knows it.
    """
    from PIL import Image

    Image.init()  # type: ignore[no-untyped-call,unused-ignore]
    with file.open("rb") as opened:
        head = opened.read(16)
    known = [accepts for _, accepts in Image.OPEN.values() if accepts is not None]
    if not any(accepts(head) is True for accepts in known):
        raise ValueError("no image")


def _digits() -> list[Path]:
    from coordcbam.data import digits

    return sorted((digits().parent / "images" / "val").glob("*.png"))[:4]
