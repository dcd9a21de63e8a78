"""What a number of a block is called in a logger: ``coordcbam/<block>/<field>``."""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from coordcbam.records import Picture

PREFIX = "coordcbam/"


def scalars_of(readings: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Every number of a reading but those that do not apply, which are NaN.

    >>> scalars_of({"model.16": {"rho": 0.9, "fusion_avg": float("nan")}})
    {'coordcbam/model.16/rho': 0.9}
    """
    return {
        f"{PREFIX}{block}/{field}": value
        for block, values in readings.items()
        for field, value in values.items()
        if not math.isnan(value)
    }


def histograms_of(found: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The gates of every block, as :func:`gates` gives them, without what is not finite.

    A histogram has no place for that, and the gates of one with nothing else are left out.

    >>> import torch
    >>> list(histograms_of({"model.16": {"channel_gates": torch.ones(8)}}))
    ['coordcbam/model.16/channel_gates']
    """
    return {
        f"{PREFIX}{block}/{name}": finite
        for block, kinds in found.items()
        for name, values in kinds.items()
        if (finite := values[values.isfinite()]).numel()
    }


def picture_name(picture: Picture) -> str:
    """One name an image, a block and a stage.

    >>> picture_name(Picture(image="val/a.jpg", block="model.16", stage="now", file="p/1.jpg"))
    'coordcbam/model.16/now/val/a'
    """
    image = Path(picture.image).with_suffix("").as_posix().lstrip("/")
    return f"{PREFIX}{picture.block}/{picture.stage}/{image}"
