"""The last reading of every block as a row of ready text, and other lists for the page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordcbam.records import MonitorRow, Run, Verdict, read_row, signal_kept
from coordcbam.report.words import Words

ABSENT = "–"
_HUGE = 1e9
_GRAVITY = ("none", "ok", "warn", "alarm")
_COLUMNS = (
    ("r_block", "std(y) / std(x): the block alone, before the mix"),
    ("r_out_pre", "std(out) / std(x) after the alpha mix, before the rescue"),
    ("rho", "share of the signal kept, <x, out> / <x, x>, before the rescue"),
    ("rms", "rms(out) / rms(x) after the alpha mix, before the rescue"),
    ("r_ema", "the slow average that the rescue looks at"),
    ("alpha", "the block's share of the mix"),
    ("alpha_eff", "that share after the rescue"),
)
_MORE = (
    ("channel map", "mean [lowest..highest] of the channel attention"),
    ("router", "the weights of the average-pooled and the max-pooled branch"),
    ("row mask", "mean ± std of the attention over rows"),
    ("column mask", "mean ± std of the attention over columns"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One block: ``cells`` in the order of :func:`headings`, a number and a remark each.

    ``line`` is the line of ``monitor.csv`` that all but the first two cells are from, or 0.
    """

    block: str
    cells: tuple[tuple[str, str], ...]
    verdict: Verdict
    line: int


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


def headings(words: Words) -> list[tuple[str, str]]:
    """The columns between a block's name and its verdict: title, and what it means."""
    return [
        (words("channels"), words("channels at this place")),
        (words("parameters"), words("parameters the block adds")),
        *((name, words(meaning)) for name, meaning in _COLUMNS),
        *((words(name), words(meaning)) for name, meaning in _MORE),
    ]


def last_readings(run: Run) -> list[Row]:
    """One row per block, in the run's order; blocks that were never read have dashes."""
    places = {place.path: place for place in run.info.places}
    rows = []
    for block in run.blocks():
        last, place = run.monitor.last(block), places.get(block)
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
        line = last.line if last else 0
        rows.append(Row(block=block, cells=cells, verdict=read_row(values), line=line))
    return rows


def _with_remark(
    values: Mapping[str, float], form: str, name: str, remark: str, *others: str
) -> tuple[str, str]:
    def text(form: str, names: tuple[str, ...], absent: str) -> str:
        parts = [number(values.get(name, math.nan)) for name in names]
        return absent if set(parts) == {ABSENT} else form.format(*parts)

    return text(form, (name,), ABSENT), text(remark, others, "")


def worst_reading(run: Run, block: str) -> tuple[MonitorRow, Verdict] | None:
    """The gravest reading of ``block``, the one that keeps least among equals, and its verdict."""
    rescued = run.monitor.rescued(block)
    found = [
        run.monitor.lowest(block, run.monitor.kept(block)),
        rescued[0] if rescued else None,
        run.monitor.last(block),
    ]
    rows = [row for row in found if row is not None]
    if not rows:
        return None

    def gravity(row: MonitorRow) -> tuple[int, float]:
        kept = signal_kept(row.values)[1]
        return _GRAVITY.index(read_row(row.values).level), -math.inf if math.isnan(kept) else -kept

    worst = max(rows, key=gravity)
    return worst, read_row(worst.values)


def cited(run: Run) -> list[MonitorRow]:
    """The rows of ``monitor.csv`` that the page's numbers are from, by their lines."""
    rows = {}
    for block in run.blocks():
        worst = worst_reading(run, block)
        for row in (run.monitor.last(block), worst[0] if worst else None):
            if row is not None:
                rows[row.line] = row
    return [rows[line] for line in sorted(rows)]


def flat(options: Mapping[str, Any], words: Words, prefix: str = "") -> list[tuple[str, str]]:
    """Nested options as dotted names and texts.

    >>> flat({"preset": "step2", "ca": {"beta": 0.35, "norm": None}}, Words())
    [('preset', 'step2'), ('ca.beta', '0.35'), ('ca.norm', 'none')]
    """
    pairs: list[tuple[str, str]] = []
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            pairs += flat(value, words, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", _option(value, words)))
    return pairs


def _option(value: object, words: Words) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_option(one, words) for one in value) or words("none")
    if value is None:
        return words("none")
    if isinstance(value, bool):
        return words("yes") if value else words("no")
    return str(value)


def results(run: Run) -> tuple[list[tuple[str, str]], str]:
    """The final numbers and where they are from: the run's result, else its last metrics."""
    if run.info.result:
        return [(name, number(value, 4)) for name, value in run.info.result.items()], "run.json"
    if not run.metrics:
        return [], ""
    final = {name: value for name, value in run.metrics[-1].items() if name != "epoch"}
    line = f"{run.metrics_file}:{len(run.metrics) + 1}"
    return [(name, number(value, 4)) for name, value in final.items()], line
