"""The colours of a gain: blue where the signal is cut, orange where it is amplified, none at 1."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Pixels = NDArray[np.float32]  # (..., 3), from 0 to 255

# From faint to strong, each darker than the one before, so that places differ also where all of a
# picture is on one side of 1. Blue and orange are told apart with every kind of colour vision.
_STOPS = (0.0, 0.3, 0.65, 1.0)
_CUT = ((190, 232, 240), (150, 216, 232), (40, 120, 190), (28, 32, 110))
_AMPLIFIED = ((255, 238, 190), (255, 214, 110), (232, 112, 20), (130, 22, 12))
_OPACITY = (0.0, 0.5, 0.72, 0.82)

_LEAST, _MOST = 0.05, 1.0  # 0.95 to 1.05, so that hardly anything looks it, and 0 to 2
_USUAL = 0.99  # of the values are within the range, so that no single cell takes it all


def reach_of(values: Values) -> float:
    """How far from 1 the values go: the half width of their range, on two digits.

    >>> reach_of(np.array([0.93, 1.0, 1.02], dtype=np.float32))
    0.07
    >>> reach_of(np.array([np.nan, 1.0], dtype=np.float32))
    0.05
    """
    away = np.abs(values[np.isfinite(values)].astype(np.float64) - 1.0)
    reach = float(np.quantile(away, _USUAL, method="higher")) if away.size else 0.0
    reach = min(max(reach, _LEAST), _MOST)
    unit = 10.0 ** (math.floor(math.log10(reach)) - 1)
    return round(math.ceil(round(reach / unit, 3)) * unit, 6)


def laid_over(ground: Pixels, values: Values, reach: float) -> Pixels:
    """The ground, tinted by the values: the more, the further they are from 1.

    Args:
        ground: (H, W, 3).
        values: (H, W); one that is NaN leaves its ground as it is.
        reach: how far from 1 the colour is the strongest.

    >>> laid_over(np.full((1, 1, 3), 9, np.float32), np.ones((1, 1), np.float32), 0.1).tolist()
    [[[9.0, 9.0, 9.0]]]
    """
    share = np.clip(np.nan_to_num((values - 1.0) / reach), -1.0, 1.0)
    away = np.abs(share)
    tint = np.where(share[..., None] < 0.0, _ramp(away, _CUT), _ramp(away, _AMPLIFIED))
    opacity = np.interp(away, _STOPS, _OPACITY)[..., None]
    laid: Pixels = ((1.0 - opacity) * ground + opacity * tint).astype(np.float32)
    return laid


def _ramp(away: Values, colours: Sequence[Sequence[float]]) -> Pixels:
    """The colours between the stops."""
    bands = [np.interp(away, _STOPS, band) for band in zip(*colours, strict=True)]
    return np.stack(bands, axis=-1).astype(np.float32)
