"""Objects against background: which cells of a map lie in the labelled boxes."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from coordcbam.pictures.shot import Shot


def covered(boxes: Iterable[Sequence[float]], height: int, width: int) -> Tensor:
    """The cells whose centre is in a box, (H, W) of booleans.

    >>> covered([(0.0, 0.0, 0.5, 0.5)], 2, 4).int().tolist()
    [[1, 1, 0, 0], [0, 0, 0, 0]]
    """
    y = (torch.arange(height) + 0.5)[:, None] / height
    x = (torch.arange(width) + 0.5)[None] / width
    inside = torch.zeros(height, width, dtype=torch.bool)
    for left, top, right, bottom in boxes:
        inside |= (left <= x) & (x < right) & (top <= y) & (y < bottom)
    return inside


def contrast(gain: Tensor, shot: Shot) -> tuple[float, float, str]:
    """The mean gain on objects and on background, NaN where there is none, and why.

    Args:
        gain: (H, W), of the whole tensor.
        shot: the image, with its boxes.
    """
    if shot.boxes is None:
        return math.nan, math.nan, "no labels"
    if not shot.boxes:
        return math.nan, math.nan, "no objects in its labels"
    objects = covered(shot.boxes, *gain.shape)
    picture = covered([shot.inside], *gain.shape)
    on, off = gain[objects & picture].nanmean().item(), gain[~objects & picture].nanmean().item()
    notes = (
        ("no cell's centre is in its objects", not bool((objects & picture).any())),
        ("no background", not bool((~objects & picture).any())),
    )
    return on, off, next((note for note, holds in notes if holds), "")
