"""How far two outputs of a detector are apart: boxes in pixels, and scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from coordcbam._support.errors import UsageError

Array = np.ndarray[Any, Any]
BOX, SCORE = 5e-3, 5e-5  # the tolerances of a float32 export of 128 pixels


class Distance(NamedTuple):
    """The largest difference of two outputs: boxes in pixels, and scores."""

    box: float
    score: float

    def times(self, factor: float) -> "Distance":
        """Both multiplied."""
        return Distance(self.box * factor, self.score * factor)

    def over(self, tolerance: "Distance") -> float:
        """The larger of both in tolerances; NaN if one is.

        >>> Distance(0.01, 5e-5).over(Distance(0.005, 5e-5))
        2.0
        """
        return float(np.maximum(self.box / tolerance.box, self.score / tolerance.score))


class Layout(NamedTuple):
    """Where boxes and scores are in an output."""

    classes: int | None  # of (1, 4 + classes + more, places); None: all that is not a box
    rows: bool = False  # (1, rows, 6): the detections themselves, by score


def head_of(network: nn.Module) -> Any:
    """The last layer of a network that is a list of layers; None of another."""
    return next(reversed([*getattr(network, "model", [])]), None)


def layout_of(network: nn.Module, output: Array, name: str) -> Layout:
    """How the outputs of this network are read.

    Raises:
        UsageError: it is not read here.
    """
    classes = getattr(head_of(network), "nc", None)
    if output.ndim == 3 and "RTDETR" not in type(network).__name__:
        if output.shape[2] == 6 and output.shape[1] > 6:
            return Layout(classes, rows=True)
        if output.shape[1] > 4:
            return Layout(classes)
    raise UsageError(
        f"--export {name}: gives {output.shape}; expected a YOLO's (1, 4 + classes, places) or "
        "(1, rows, 6)"
    )


def apart(ours: Sequence[Array], theirs: Sequence[Array], layout: Layout) -> Distance:
    """The largest distance over all images."""
    pairs = zip(ours, theirs, strict=True)
    each = [(_of_rows if layout.rows else _of_maps)(a[0], b[0], layout) for a, b in pairs]
    return Distance(*(float(np.max(column)) for column in zip(*each, strict=True)))


def _of_maps(a: Array, b: Array, layout: Layout) -> Distance:
    end = None if layout.classes is None else 4 + layout.classes
    gap = np.abs(a - b)
    return Distance(float(gap[:4].max()), float(gap[4:end].max()))


def _of_rows(a: Array, b: Array, layout: Layout) -> Distance:  # noqa: ARG001
    """Of rows that may have changed places: each of the better half to the nearest of the other."""
    each = [_to_nearest(a, b), _to_nearest(b, a)]
    return Distance(*(float(np.max(column)) for column in zip(*each, strict=True)))


def _to_nearest(a: Array, b: Array) -> Distance:
    # Only the better half: which rows are the last ones is a matter of rounding.
    ours = a[: max(len(a) // 2, 1), None]
    box = np.abs(ours[..., :4] - b[None, :, :4]).max(axis=2)
    score = np.abs(ours[..., 4] - b[None, :, 4])
    at = np.maximum(box / BOX, score / SCORE).argmin(axis=1)
    index = np.arange(len(at))
    return Distance(float(box[index, at].max()), float(score[index, at].max()))
