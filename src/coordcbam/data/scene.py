"""One picture: a crop of a photograph with handwritten digits blended into it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.float32]
Picture = NDArray[np.float32]

# Measured with a detector that trains for two minutes: see DigitsConfig for what may vary.
GLYPH_HEIGHT = (0.22, 0.42)  # of the picture's side
CROP_SIDE = (0.30, 1.0)  # of the photograph's shorter side
BRIGHTNESS = (0.60, 1.10)
CONTRAST = (90.0, 170.0)  # of ink against what lies under it, in steps of luminance (0 to 255)
OPACITY = (0.80, 1.0)
CHROMA = 70.0
MAX_OVERLAP = 0.05  # of the smaller box

_VISIBLE = 0.15  # the least opacity that counts for a box

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Box(NamedTuple):
    """A rectangle in pixels: ``left`` and ``top`` are inside, ``right`` and ``bottom`` not."""

    left: int
    top: int
    right: int
    bottom: int


class Scene(NamedTuple):
    """A picture (H, W, 3) from 0 to 255, and the box of each digit in the order given."""

    picture: NDArray[np.uint8]
    boxes: list[Box]


def load_photographs() -> list[Image.Image]:
    """scikit-learn's two photographs, 640x427 pixels."""
    from sklearn.datasets import load_sample_image

    return [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


def render(
    inks: Sequence[Mask], photographs: Sequence[Image.Image], size: int, rng: np.random.Generator
) -> Scene:
    """Blend digits into a crop of one of the photographs, hardly overlapping.

    Args:
        inks: 8x8 glyphs, 0 (paper) to 1 (ink).
        photographs: RGB photographs to choose from.
        size: side of the square picture in pixels.
        rng: decides everything that varies.

    Returns:
        The picture and the tight box of the visible ink of each glyph.
    """
    picture = background(photographs[int(rng.integers(len(photographs)))], size, rng)
    masks, boxes = arrange(inks, size, rng)
    for mask, box in zip(masks, boxes, strict=True):
        blend(picture, mask, box, rng)
    return Scene(np.rint(picture).clip(0, 255).astype(np.uint8), boxes)


def background(photograph: Image.Image, size: int, rng: np.random.Generator) -> Picture:
    """A random square of the photograph, perhaps mirrored, brighter or darker, as float32 RGB."""
    side = min(photograph.size) * rng.uniform(*CROP_SIDE)
    left = rng.uniform(0, photograph.width - side)
    top = rng.uniform(0, photograph.height - side)
    crop = photograph.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    pixels = np.asarray(crop, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    lit: Picture = (pixels * np.float32(rng.uniform(*BRIGHTNESS))).clip(0, 255)
    return lit


def enlarge(ink: Mask, height: float) -> Mask:
    """A glyph's opacity (h, w) from 0 to 1, so that its eight rows are ``height`` pixels high.

    All four edges of the result touch visible ink, so its outline is the glyph's tight box.
    """
    rows, columns = ink.shape[0] + 2, ink.shape[1] + 2
    scale = height / ink.shape[0]
    # The empty frame lets strokes at the edge of the 8x8 cell fade out instead of being cut.
    framed = Image.fromarray(np.pad(ink, 1))
    target = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    smooth = np.asarray(framed.resize(target, Image.Resampling.BICUBIC), dtype=np.float32)
    mask: Mask = ((smooth - 0.35) / 0.40).clip(0, 1)
    seen_y = np.flatnonzero((mask > _VISIBLE).any(axis=1))
    seen_x = np.flatnonzero((mask > _VISIBLE).any(axis=0))
    return mask[seen_y[0] : seen_y[-1] + 1, seen_x[0] : seen_x[-1] + 1]


def arrange(
    inks: Sequence[Mask], size: int, rng: np.random.Generator
) -> tuple[list[Mask], list[Box]]:
    """Masks of random height and a place for each; all shrink a little when they don't fit."""
    heights = rng.uniform(*GLYPH_HEIGHT, size=len(inks)) * size
    while True:
        masks = [enlarge(ink, height) for ink, height in zip(inks, heights, strict=True)]
        boxes: list[Box] = []
        for mask in masks:
            free = (_somewhere(mask, size, rng) for _ in range(30))
            box = next((b for b in free if all(overlap(b, o) <= MAX_OVERLAP for o in boxes)), None)
            if box is None:
                break
            boxes.append(box)
        else:
            return masks, boxes
        heights = heights * 0.95


def _somewhere(mask: Mask, size: int, rng: np.random.Generator) -> Box:
    height, width = mask.shape
    left = int(rng.integers(0, size - width + 1))
    top = int(rng.integers(0, size - height + 1))
    return Box(left, top, left + width, top + height)


def overlap(one: Box, other: Box) -> float:
    """The common area as a share of the smaller box, 0 to 1.

    >>> overlap(Box(0, 0, 4, 4), Box(2, 0, 10, 4))
    0.5
    """
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    smaller = min((b.right - b.left) * (b.bottom - b.top) for b in (one, other))
    return max(width, 0) * max(height, 0) / smaller


def blend(picture: Picture, mask: Mask, box: Box, rng: np.random.Generator) -> None:
    """Put tinted ink on the picture, in place: lighter than a dark ground, darker than a light."""
    under = picture[box.top : box.bottom, box.left : box.right]
    ground = float((under @ _LUMA).mean())
    contrast = rng.uniform(*CONTRAST)
    level = ground + (contrast if ground < 128 else -contrast)
    tint = rng.uniform(-CHROMA, CHROMA, size=3).astype(np.float32)
    # Without its own luminance the tint changes the colour and not the contrast.
    ink = (level + tint - tint @ _LUMA).clip(0, 255)
    opacity = (mask * np.float32(rng.uniform(*OPACITY)))[:, :, None]
    under += opacity * (ink.astype(np.float32) - under)
