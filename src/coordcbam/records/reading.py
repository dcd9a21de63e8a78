"""How to read a block's numbers: the rules of the notebook's section 9, in one place.

The notebook reads ``r_out_pre``, a ratio of deviations. Where the rescue is ours ``rho`` takes its
place: it never leaves the range of the gains, so it raises no false alarm.

They raise an alarm and give no score: a ratio further above the line is not better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SUPPRESSING = 0.45
STRONGLY = 0.35
_REAL_CHANGE = 1e-6  # relative: alpha and alpha_eff are float32 numbers


@dataclass(frozen=True)
class Verdict:
    """What a reading means: a ``level`` for sorting and colour, a ``text`` for people.

    >>> Verdict("ok", "healthy").text
    'healthy'
    """

    level: Literal["ok", "warn", "alarm", "none"]
    text: str


def verdict(kept: float, alpha: float, alpha_eff: float) -> Verdict:
    """Below 0.45 a block is suppressing, below 0.35 strongly; ``alpha_eff < alpha`` is a rescue.

    Args:
        kept: share of the signal after the alpha mix, before the rescue (see
            :func:`signal_kept`).
        alpha: the block's share of the mix, 0 to 1.
        alpha_eff: that share after the rescue.

    Returns:
        Both findings joined by ``"; "`` when both hold. NaN counts as no reading; what is infinite
        is an alarm.

    >>> verdict(0.40, alpha=0.75, alpha_eff=0.70)
    Verdict(level='warn', text='suppressing; rescue active')
    >>> verdict(0.75, alpha=0.75, alpha_eff=0.75)
    Verdict(level='ok', text='healthy')
    """
    found: list[str] = []
    level: Literal["ok", "warn", "alarm", "none"] = "ok"
    if math.isnan(kept):
        level, found = "none", ["no reading"]
    elif math.isinf(kept):
        level, found = "alarm", ["not finite"]
    elif kept < STRONGLY:
        level, found = "alarm", ["suppressing strongly"]
    elif kept < SUPPRESSING:
        level, found = "warn", ["suppressing"]
    if rescue_active(alpha, alpha_eff):
        found.append("rescue active")
        level = "alarm" if level == "alarm" else "warn"
    return Verdict(level, "; ".join(found) or "healthy")


def rescue_active(alpha: float, alpha_eff: float) -> bool:
    """Whether the rescue weakens the block: ``alpha_eff < alpha`` by more than rounding.

    >>> rescue_active(0.75, 0.70), rescue_active(0.75, 0.75), rescue_active(0.75, float("nan"))
    (True, False, False)
    """
    return alpha_eff < alpha - _REAL_CHANGE * abs(alpha)


def read_row(values: Mapping[str, float]) -> Verdict:
    """The verdict on one monitor row; numbers that are absent count as NaN.

    >>> read_row({"r_out_pre": 0.30}).text
    'suppressing strongly'
    >>> read_row({}).text
    'no reading'
    """
    alpha, alpha_eff = (values.get(name, math.nan) for name in ("alpha", "alpha_eff"))
    return verdict(signal_kept(values)[1], alpha, alpha_eff)


def signal_kept(values: Mapping[str, float]) -> tuple[str, float]:
    """The number that says how much of its signal a block keeps: its name and its value.

    >>> signal_kept({"r_out_pre": 0.3, "rho": 0.9, "skipped": 0.0})
    ('rho', 0.9)
    >>> signal_kept({"r_out_pre": 0.3, "rho": float("nan"), "skipped": float("nan")})
    ('r_out_pre', 0.3)
    """
    # Only a rescue of ours counts the batches that it skips.
    ours = math.isfinite(values.get("skipped", math.nan))
    name = "rho" if ours else "r_out_pre"
    return name, values.get(name, math.nan)
