"""The last reading of every block as a row of ready text, and other lists for the page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordcbam.records import MonitorRow, Run, Verdict, read_row, signal_kept

ABSENT = "–"
_HUGE = 1e9
_GRAVITY = ("none", "ok", "warn", "alarm")
_COLUMNS = (
    ("r_block", "std(y) / std(x): the block alone, before the mix"),
    ("r_out_pre", "std(out) / std(x) after the alpha mix, before the rescue"),
    ("rho", "share of the signal kept, <x, out> / <x, x>, before the rescue"),
    ("r_ema", "the slow average that the rescue looks at"),
    ("alpha", "the block's share of the mix"),
    ("alpha_eff", "that share after the rescue"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One block: ``cells`` in the order of :func:`headings`, a number and a remark each."""

    block: str
    cells: tuple[tuple[str, str], ...]
    verdict: Verdict


def number(value: float, digits: int = 3) -> str:
    """``value`` for people: fixed digits, a dash for NaN.

    >>> number(0.74588), number(float("nan")), number(1e-7), number(123456.0)
    ('0.746', '–', '1e-07', '123456')
    """
    if math.isnan(value):
        return ABSENT
    size = abs(value)
    if 0 < size < 10**-digits or size >= _HUGE:
        return f"{value:.{digits}g}"
    return f"{value:.0f}" if size >= 10**digits else f"{value:.{digits}f}"


def headings() -> list[tuple[str, str]]:
    """The columns between a block's name and its verdict: title, and what it means."""
    return [
        ("channels", "channels at this place"),
        ("parameters", "parameters the block adds"),
        *_COLUMNS,
        ("channel map", "mean [lowest..highest] of the channel attention"),
        ("router", "the weights of the average-pooled and the max-pooled branch"),
        ("row mask", "mean ± std of the attention over rows"),
        ("column mask", "mean ± std of the attention over columns"),
    ]


def last_readings(run: Run) -> list[Row]:
    """One row per block, in the run's order; blocks that were never read have dashes."""
    places = {place.path: place for place in run.info.places}
    rows = []
    for block in run.blocks():
        last, place = run.last(block), places.get(block)
        values: Mapping[str, float] = last.values if last else {}
        single = (
            f"{place.channels:,}" if place and place.channels else ABSENT,
            f"{place.parameters:,}" if place else ABSENT,
            *(number(values.get(name, math.nan)) for name, _ in _COLUMNS),
        )
        double = (
            _with_remark(values, "{}", "ca_mean", "[{}..{}]", "ca_min", "ca_max"),
            _with_remark(values, "avg {}", "fusion_avg", "max {}", "fusion_max"),
            _with_remark(values, "{}", "a_h_mean", "± {}", "a_h_std"),
            _with_remark(values, "{}", "a_w_mean", "± {}", "a_w_std"),
        )
        cells = (*((text, "") for text in single), *double)
        rows.append(Row(block=block, cells=cells, verdict=read_row(values)))
    return rows


def _with_remark(
    values: Mapping[str, float], form: str, name: str, remark: str, *others: str
) -> tuple[str, str]:
    def text(form: str, names: tuple[str, ...], absent: str) -> str:
        parts = [number(values.get(name, math.nan)) for name in names]
        return absent if set(parts) == {ABSENT} else form.format(*parts)

    return text(form, (name,), ABSENT), text(remark, others, "")


def worst_reading(run: Run, block: str) -> tuple[int, Verdict] | None:
    """The step and verdict of the gravest reading of ``block``, the lowest ratio among equals."""
    rows = [row for row in run.monitor if row.block == block]
    if not rows:
        return None

    def gravity(row: MonitorRow) -> tuple[int, float]:
        ratio = signal_kept(row.values)[1]
        return _GRAVITY.index(read_row(row.values).level), -ratio if not math.isnan(
            ratio
        ) else -math.inf

    worst = max(rows, key=gravity)
    return worst.step, read_row(worst.values)


def flat(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested options as dotted names and texts.

    >>> flat({"preset": "step2", "ca": {"beta": 0.35, "norm": None}})
    [('preset', 'step2'), ('ca.beta', '0.35'), ('ca.norm', 'none')]
    """
    pairs: list[tuple[str, str]] = []
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", _option(value)))
    return pairs


def _option(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_option, value)) or "none"
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def results(run: Run) -> list[tuple[str, str]]:
    """The final numbers: what the run recorded as its result, else its last row of metrics."""
    final: Mapping[str, float] = run.info.result
    if not final and run.metrics:
        final = {name: value for name, value in run.metrics[-1].items() if name != "epoch"}
    return [(name, number(value, 4)) for name, value in final.items()]
