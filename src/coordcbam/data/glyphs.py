"""Which handwritten digits exist, and which of them each image shows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COUNT = 1797
PER_IMAGE = (2, 4)

# Fixed, so that sets of different seeds also share no glyph between training and validation.
_SPLIT_SEED = 1797
_VAL_SHARE = 0.25
# The streams of random numbers of one seed: one for each purpose.
_STREAM = {"train": 1, "val": 2}


class Glyphs(NamedTuple):
    """The handwritten digits: ``ink`` (1797, 8, 8) from 0 to 1, ``digit`` (1797,) from 0 to 9."""

    ink: NDArray[np.float32]
    digit: NDArray[np.int64]


def load_glyphs() -> Glyphs:
    """scikit-learn's digits, in its order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Glyphs((bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64))


def split_glyphs() -> dict[str, NDArray[np.int64]]:
    """The indices of the glyphs for ``"train"`` and ``"val"``: disjoint, together all of them.

    >>> {split: len(indices) for split, indices in split_glyphs().items()}
    {'train': 1348, 'val': 449}
    """
    order = np.random.default_rng(_SPLIT_SEED).permutation(COUNT)
    cut = COUNT - int(COUNT * _VAL_SHARE)
    return {"train": order[:cut], "val": order[cut:]}


def choose_glyphs(split: str, images: int, *, seed: int) -> list[list[int]]:
    """The glyph indices of each image of a split: 2 to 4 an image, all glyphs before any again.

    >>> choose_glyphs("val", 2, seed=0) == choose_glyphs("val", 9, seed=0)[:2]
    True
    """
    pool = split_glyphs()[split]
    rng = np.random.default_rng([seed, _STREAM[split]])
    waiting: list[int] = []
    chosen = []
    for _ in range(images):
        count = int(rng.integers(PER_IMAGE[0], PER_IMAGE[1] + 1))
        if len(waiting) < count:
            waiting += rng.permutation(pool).tolist()
        chosen.append(waiting[:count])
        del waiting[:count]
    return chosen
