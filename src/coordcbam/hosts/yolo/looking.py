"""What the blocks do to images as Ultralytics takes them: letterboxed, with labels where there are.

A training draws the same validation images before its first step and after its last.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coordcbam._support.errors import UsageError, said, shown
from coordcbam.hosts.yolo.labels import Boxes, labelled, of_centres
from coordcbam.pictures import Shot, look
from coordcbam.records.pictures import Picture

IMAGES = 4  # of the validation set, the first with objects, that a training draws

LOGGER = logging.getLogger("ultralytics")


class Sight(NamedTuple):
    """How a host takes images."""

    read: Callable[[str], Any]  # pixels (h, w, c) of a file, or None
    take: Callable[[Any], Tensor]  # pixels as the network is given them, (1, C, H, W)
    task: str  # of the network: what a row of a label file says


def look_at(
    network: nn.Module, images: Iterable[str | Path], folder: str | Path, sight: Sight
) -> list[Picture]:
    """Draw what the blocks of ``network`` do to image files, each with its labels if it has any.

    Raises:
        UsageError: no images, or one that is not there or is none.
    """
    given = [images] if isinstance(images, (str, Path)) else list(images)
    for image in given:
        if not isinstance(image, (str, Path)):
            raise UsageError(f"images has {shown(image)}: expected paths of image files")
        if Path(image).is_dir():
            raise UsageError(f"{image}: a folder; expected image files, such as {image}/*.jpg")
        if not Path(image).is_file():
            raise UsageError(f"{image}: no such image; expected the path of an image file")
    files = list(dict.fromkeys(os.path.abspath(image) for image in given))  # noqa: PTH100
    shots = [
        _shot(name, file, labelled(Path(file), sight.task), sight)
        for name, file in zip(names_of(files), files, strict=True)
    ]
    return look(network, shots, folder)


def names_of(files: Sequence[str]) -> list[str]:
    """What tells the files apart: their names, with as many folders as that needs.

    >>> names_of(["/data/a/x.jpg", "/data/b/x.jpg"]), names_of(["/data/a/x.jpg"])
    (['a/x.jpg', 'b/x.jpg'], ['x.jpg'])
    """
    parts = [Path(file).parts for file in files]
    for depth in range(1, max(map(len, parts), default=1)):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(files)


def before(trainer: Any) -> None:
    """When a training starts; a resumed one keeps what its first start has drawn."""
    if trainer.start_epoch == 0:
        _draw(trainer, "before", lambda: trainer.ema.ema)


def after(trainer: Any) -> None:
    """When a training has ended: by its best weights, or where none are saved, the averaged."""
    _draw(trainer, "after", lambda: _best(trainer))


def _draw(trainer: Any, stage: str, network: Callable[[], nn.Module]) -> None:
    """Whatever goes wrong is a line in the log: a picture is no reason to stop a training."""
    try:
        folder: Path = trainer.coordcbam_monitor.folder
        chosen = _with_objects(trainer.test_loader.dataset)
        if not chosen:
            LOGGER.info("coordcbam draws no pictures: no validation image has objects")
            return
        looked, files = network(), list(chosen)
        sight = trainer.coordcbam_sight(looked)
        named = zip(names_of(files), files, strict=True)
        shots = [_shot(name, file, chosen[file], sight) for name, file in named]
        look(looked, shots, folder, stage=stage)
    except Exception as error:
        LOGGER.warning(f"coordcbam draws no pictures {stage} this training: {said(error)}")


def _with_objects(dataset: Any) -> dict[str, Boxes]:
    """The first images of a data set that have boxes, with them."""
    labels = [label for label in getattr(dataset, "labels", ()) if len(label["bboxes"])]
    return {
        str(label["im_file"]): of_centres(label["bboxes"].tolist()) for label in labels[:IMAGES]
    }


def _best(trainer: Any) -> nn.Module:
    network: nn.Module
    if not trainer.best.exists():
        network = trainer.ema.ema
        return network
    held = torch.load(trainer.best, map_location=trainer.device, weights_only=False)
    network = (held.get("ema") or held["model"]).float()
    return network


def _shot(name: str, file: str, boxes: Boxes | None, sight: Sight) -> Shot:
    """One image; where a white one of its size would land, its boxes do."""
    try:
        pixels = sight.read(file)
    except Exception:  # a decoder may raise anything
        pixels = None
    if pixels is None:
        raise UsageError(f"{file}: not an image that can be read; expected JPEG, PNG or the like")
    tensor = sight.take(pixels)
    left, top, right, bottom = inside = _lit(sight.take(pixels * 0 + 255))
    width, height = right - left, bottom - top
    placed = boxes and [
        (left + a * width, top + b * height, left + c * width, top + d * height)
        for a, b, c, d in boxes
    ]
    return Shot(name=name, tensor=tensor, boxes=placed, inside=inside)


def _lit(tensor: Tensor) -> tuple[float, float, float, float]:
    """The part of a picture that is white, as shares of its sides."""
    height, width = tensor.shape[2:]
    white = tensor[0].amin(dim=0) > 0.9
    rows, columns = white.any(dim=1).nonzero(), white.any(dim=0).nonzero()
    return (
        columns.min().item() / width,
        rows.min().item() / height,
        (columns.max().item() + 1) / width,
        (rows.max().item() + 1) / height,
    )
