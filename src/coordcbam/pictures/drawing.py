"""One picture: the gain over the image, row and column gates along it, and the range of colours."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from coordcbam.pictures.colours import Pixels, Values, laid_over

WIDTH, TALLEST = 320, 420  # of a picture, and of the image in it
HEAVIEST = 25_000  # bytes

_STRIP, _GAP, _MARGIN, _BAR, _FONT = 13, 3, 4, 9, 12
_PAPER, _NEUTRAL = 255.0, 232.0
_DARKEST, _LIGHTEST = 70.0, 235.0  # of the image: room for the colours at both ends


class Sheet(NamedTuple):
    """What is drawn of a block, 1 being neutral: the gain, and row and column gates."""

    gain: Values  # (H, W)
    rows: Values  # (H,)
    columns: Values  # (W,)


def draw(
    canvas: Image.Image, sheet: Sheet, boxes: Sequence[Sequence[float]], reach: float
) -> bytes:
    """A JPEG of at most 25 KB.

    Args:
        canvas: the image, whatever its size.
        sheet: what is laid over it.
        boxes: outlined; left, top, right, bottom as shares of the image.
        reach: half of the range of colours, whose middle is 1.
    """
    width, height = _fitted(canvas.size)
    ground = np.full((height + _GAP + _STRIP, WIDTH, 3), _PAPER, dtype=np.float32)
    gain = _smooth(sheet.gain, (width, height))
    image = laid_over(_paled(canvas, (width, height)), gain, reach)
    ground[:height, :width] = _outlined(image, boxes)
    right, below = width + _GAP, height + _GAP
    ground[:height, right : right + _STRIP] = _strip(sheet.rows[:, None], (_STRIP, height), reach)
    ground[below:, :width] = _strip(sheet.columns[None], (width, _STRIP), reach)
    framed = np.pad(
        np.concatenate([ground, _legend(reach)]),
        ((_MARGIN, 0), (0, 0), (0, 0)),
        constant_values=_PAPER,
    )
    return _jpeg(framed)


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    """The size of the image in the picture, of the same aspect."""
    width, height = size
    scale = min((WIDTH - _GAP - _STRIP) / width, TALLEST / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _paled(canvas: Image.Image, size: tuple[int, int]) -> Pixels:
    """In grey, neither black nor white, so that a colour means a gain."""
    grey = canvas.convert("L").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.asarray(grey, dtype=np.float32) / 255.0
    return np.repeat((_DARKEST + (_LIGHTEST - _DARKEST) * pixels)[..., None], 3, axis=2)


def _smooth(values: Values, size: tuple[int, int]) -> Values:
    """At the size of the picture; between the centres of two cells the colour goes evenly."""
    known = np.nan_to_num(values.astype(np.float32), nan=1.0)
    return np.asarray(Image.fromarray(known).resize(size, Image.Resampling.BILINEAR))


def _strip(values: Values, size: tuple[int, int], reach: float) -> Pixels:
    """One cell a gate, with hard edges."""
    cells = Image.fromarray(np.nan_to_num(values.astype(np.float32), nan=1.0))
    large = np.asarray(cells.resize(size, Image.Resampling.NEAREST))
    return laid_over(np.full((*large.shape, 3), _NEUTRAL, dtype=np.float32), large, reach)


def _outlined(pixels: Pixels, boxes: Sequence[Sequence[float]]) -> Pixels:
    """White lines on black ones: seen on every ground."""
    image = Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
    pen, (width, height) = ImageDraw.Draw(image), image.size
    for left, top, right, bottom in boxes:
        x = sorted(round(share * (width - 1)) for share in (left, right))
        y = sorted(round(share * (height - 1)) for share in (top, bottom))
        pen.rectangle([x[0] - 1, y[0] - 1, x[1] + 1, y[1] + 1], outline=(0, 0, 0))
        pen.rectangle([x[0], y[0], x[1], y[1]], outline=(255, 255, 255))
    return np.asarray(image, dtype=np.float32)


def _legend(reach: float) -> Pixels:
    """The colours from one end of the range to the other, and the gains there."""
    height = _GAP + _BAR + 2 + _FONT + 3
    legend = np.full((height, WIDTH, 3), _PAPER, dtype=np.float32)
    ramp = np.linspace(1.0 - reach, 1.0 + reach, WIDTH, dtype=np.float32)[None]
    bar = np.full((_BAR, WIDTH, 3), _NEUTRAL, dtype=np.float32)
    legend[_GAP : _GAP + _BAR] = laid_over(bar, np.repeat(ramp, _BAR, axis=0), reach)
    image = Image.fromarray(np.rint(legend).clip(0, 255).astype(np.uint8))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(_FONT)
    y = _GAP + _BAR + 1
    digits = 3 if reach < 0.1 else 2
    low, high = f"{1.0 - reach:.{digits}f}", f"{1.0 + reach:.{digits}f}"  # no word: in any language
    for x, text, anchor in ((0, low, "la"), (WIDTH // 2, "1", "ma"), (WIDTH - 1, high, "ra")):
        pen.text((x, y), text, fill=(40, 40, 40), font=font, anchor=anchor)
    pen.line([WIDTH // 2, _GAP, WIDTH // 2, _GAP + _BAR], fill=(40, 40, 40))
    return np.asarray(image, dtype=np.float32)


def _jpeg(pixels: Pixels) -> bytes:
    """As good as fits."""
    image = Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
    for quality in (88, 80, 70, 55, 40, 25):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True, subsampling=0)
        if file.tell() <= HEAVIEST:
            break
    return file.getvalue()
