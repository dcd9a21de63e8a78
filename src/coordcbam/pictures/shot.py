"""One image as a network takes it, and what is known of it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from coordcbam._support.errors import UsageError, shown

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """An image ready for the network, by the name that it has in the records.

    Boxes are shares of the tensor's width and height: left, top, right, bottom.

    Args:
        name: of the image, for people; unique among those that are looked at together.
        tensor: what the network is given, (1, C, H, W).
        canvas: what is drawn on, all of the tensor and nothing else: a picture of Pillow's or an
            array (h, w) or (h, w, 3) from 0 to 255. None is the tensor itself, in [0, 1].
        boxes: of the objects; empty where there is none, None where nobody knows.
        inside: where the picture is; what is outside of it is padding, and no background.

    Raises:
        UsageError: naming what is wrong.

    >>> import torch
    >>> Shot(name="a.jpg", tensor=torch.zeros(1, 3, 8, 8), boxes=[(0, 0, 0.5, 1)]).boxes
    ((0.0, 0.0, 0.5, 1.0),)
    """

    name: str
    tensor: Tensor
    canvas: Any = None
    boxes: Sequence[Sequence[float]] | None = None
    inside: Box = _WHOLE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UsageError(f"Shot.name={shown(self.name)}: expected the image's name")
        tensor = self.tensor
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise UsageError(f"Shot.tensor of {self.name!r}: expected a tensor of floats")
        if tensor.dim() != 4 or tensor.shape[0] != 1 or 0 in tensor.shape:
            raise UsageError(
                f"Shot.tensor of {self.name!r} is {tuple(tensor.shape)}: expected (1, C, H, W)"
            )
        if self.boxes is not None:
            boxes = tuple(_box(box, self.name) for box in self.boxes)
            object.__setattr__(self, "boxes", boxes)


def _box(values: Any, name: str) -> Box:
    """Four finite numbers, cut to the picture."""
    try:
        left, top, right, bottom = (float(value) for value in values)
    except (TypeError, ValueError):
        left = top = right = bottom = math.nan
    if not math.isfinite(left + top + right + bottom):
        raise UsageError(
            f"Shot.boxes of {name!r} has {shown(values)}: expected left, top, right, bottom"
        )
    return _share(left), _share(top), _share(right), _share(bottom)


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
