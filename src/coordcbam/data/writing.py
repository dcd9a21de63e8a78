"""The digits set as files: pictures, labels, ``data.yaml``, credits and the manifest."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coordcbam.data import glyphs, scene, store

_STREAM = {"train": 3, "val": 4}  # apart from the streams that choose glyphs

CREDITS = """\
The pictures of this set are made from the following works. Changes: cropped, scaled, mirrored,
made brighter or darker, and digits blended into them.

china.jpg: photograph by danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035/
  CC BY 2.0, https://creativecommons.org/licenses/by/2.0/ (as distributed with scikit-learn)
flower.jpg: photograph by vultilion, https://www.flickr.com/photos/vultilion/6056698931/
  CC BY 2.0, https://creativecommons.org/licenses/by/2.0/ (as distributed with scikit-learn, whose
  README credits danielbuechele and links to vultilion)
Handwritten digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
  UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49
  CC BY 4.0, https://creativecommons.org/licenses/by/4.0/ (as distributed with scikit-learn)
"""


def write_set(
    folder: Path,
    *,
    final: Path,
    identity: Mapping[str, Any],
    splits: Mapping[str, int],
    size: int,
    seed: int,
) -> None:
    """Write a whole set into ``folder``, which will be renamed to ``final``; the manifest last."""
    chosen = {
        split: glyphs.choose_glyphs(split, count, seed=seed) for split, count in splits.items()
    }
    for split, per_image in chosen.items():
        _write_split(folder, split, per_image, size=size, seed=seed)
    (folder / store.ATTRIBUTION).write_bytes(CREDITS.encode())
    (folder / "data.yaml").write_bytes(store.data_yaml(final).encode())
    manifest = {
        **identity,
        "made_with": {
            name: importlib.metadata.version(name) for name in ("numpy", "pillow", "scikit-learn")
        },
        "glyphs": chosen,
        "files": {name: store.sha256(folder / name) for name in store.content_of(splits)},
    }
    (folder / store.MANIFEST).write_bytes(json.dumps(manifest, indent=1).encode())


def _write_split(
    folder: Path, split: str, per_image: list[list[int]], *, size: int, seed: int
) -> None:
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    known, photographs = glyphs.load_glyphs(), scene.load_photographs()
    for index, indices in enumerate(per_image):
        # A stream for each picture: it stays the same when the set gets larger.
        rng = np.random.default_rng([seed, _STREAM[split], index])
        picture, boxes = scene.render([known.ink[i] for i in indices], photographs, size, rng)
        rows = [
            label_row(int(known.digit[i]), box, size) for i, box in zip(indices, boxes, strict=True)
        ]
        Image.fromarray(picture).save(images / f"{store.stem(index)}.png")
        (labels / f"{store.stem(index)}.txt").write_bytes("".join(rows).encode())


def label_row(digit: int, box: scene.Box, size: int) -> str:
    r"""One line of a label file: class, then centre and extent as shares of the side.

    >>> label_row(7, scene.Box(0, 32, 64, 96), 128)
    '7 0.250000 0.500000 0.500000 0.500000\n'
    """
    numbers = (
        (box.left + box.right) / 2 / size,
        (box.top + box.bottom) / 2 / size,
        (box.right - box.left) / size,
        (box.bottom - box.top) / size,
    )
    return " ".join([str(digit), *(f"{number:.6f}" for number in numbers)]) + "\n"
