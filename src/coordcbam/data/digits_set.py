"""Real handwritten digits on crops of two photographs: a detection set made on the spot."""

import dataclasses
import functools
from pathlib import Path

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.data import store

# Raised whenever the same options give other images or labels.
VERSION = 1

_RANGES = {"train": (1, 20_000), "val": (1, 20_000), "size": (32, 1024), "seed": (0, 2**32 - 1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """What the digits set contains.

    Attributes:
        train: number of training images, 1 to 20,000.
        val: number of validation images, 1 to 20,000.
        size: side of the square images in pixels, 32 to 1024.
        seed: chooses crops, places, sizes and colours, 0 to 2**32 - 1. Which glyphs are for
            training and which for validation is the same for every seed.

    Raises:
        UsageError: a value is not an integer, or outside its range.

    >>> DigitsConfig(size=8)
    Traceback (most recent call last):
        ...
    coordcbam._support.errors.UsageError: DigitsConfig.size=8: expected an integer from 32 to 1024
    """

    train: int = 300
    val: int = 100
    size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UsageError(
                    f"DigitsConfig.{name}={value!r}: expected an integer from {low} to {high}"
                )

    @property
    def folder(self) -> str:
        """The name of the set's folder.

        >>> DigitsConfig(seed=3).folder
        'digits-v1-train300-val100-size128-seed3'
        """
        words = (f"{key}{value}" for key, value in dataclasses.asdict(self).items())
        return "-".join((f"digits-v{VERSION}", *words))


def digits(config: DigitsConfig | None = None, *, root: Path | None = None) -> Path:
    """Make the digits detection set, or find the one made earlier.

    Every image shows 2 to 4 of scikit-learn's 1,797 handwritten digits on a crop of one of its
    two photographs. No glyph is in both training and validation images; the photographs, and
    the people who wrote the digits, are. The same options and package versions give the same
    bytes. A set that is damaged or incomplete is made again.

    Args:
        config: what the set contains; ``DigitsConfig()`` when None.
        root: the folder that holds the set's folder; when None, the environment variable
            ``COORDCBAM_CACHE``, or else the user's cache folder.

    Returns:
        The absolute path of ``data.yaml``, in the layout Ultralytics trains on.

    Raises:
        MissingExtraError: scikit-learn, Pillow or platformdirs is absent.
        UsageError: the root cannot be written.
    """
    require("sklearn", "PIL", "platformdirs", for_what="the digits set")
    config = config or DigitsConfig()
    final = store.cache_root(root) / config.folder
    identity = {"set": "digits", "version": VERSION, "options": dataclasses.asdict(config)}
    splits = {"train": config.train, "val": config.val}
    is_good = functools.partial(store.is_intact, final=final, identity=identity, splits=splits)
    if not is_good(final):
        from coordcbam.data.writing import write_set

        fill = functools.partial(
            write_set,
            final=final,
            identity=identity,
            splits=splits,
            size=config.size,
            seed=config.seed,
        )
        store.install(final, fill=fill, is_good=is_good)
    return final / "data.yaml"
