"""Which charts a run gets and the numbers in them; the page's script draws them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coordcbam.records import STRONGLY, SUPPRESSING, Event, Run
from coordcbam.report.tables import number
from coordcbam.report.words import Words

POINTS = 1000  # rows of a block that are drawn; every dip and peak is among them
_MARKS = 300
_DIGITS = 5
_PALETTE = 7
_MAP = re.compile(r"(?<![a-z])map(?![a-z])")  # a word of a lower-case name
Numbers = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: ``colour`` is a name of the style sheet's."""

    name: str
    values: Numbers
    colour: str
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line with a name."""

    name: str
    value: float
    colour: str


class Mark(NamedTuple):
    """An event on the axis of steps; a rescue lasts from ``first`` to ``last``, or to the end."""

    first: int
    last: int | None
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over one axis; ``rows`` are the lines of the CSV file that each point is from.

    ``bridged`` curves go on over points that they lack.
    """

    name: str
    title: str
    axis: str
    x: Sequence[int]
    lines: Sequence[Line]
    rows: Sequence[int] = ()
    levels: Sequence[Level] = ()
    marks: Sequence[Mark] = ()
    floor: float | None = None
    ceiling: float | None = None
    bridged: bool = False


def block_charts(run: Run, block: str, number_: int, words: Words) -> list[Chart]:
    """What a block did over the steps: the signal kept, the mix, the router and temperature."""
    kept = run.monitor.kept(block)
    r_min = run.info.certificate.get("r_min")
    marks = _marks(run, block, words)
    kinds = (
        ("kept", words("Signal kept"), _KEPT[kept], (0.25, 1.05)),
        ("mix", words("The block's share of the mix"), _MIX, (0.0, 1.05)),
        ("gates", words("Router weights and temperature"), _GATES, (0.0, 1.05)),
    )
    fields = [field for _, _, looks, _ in kinds for field in looks]
    data = run.monitor.thinned(block, fields, POINTS)
    charts = []
    for kind, title, looks, (floor, ceiling) in kinds:
        lines = [
            Line(name=field, values=data[field], colour=colour, dashed=dashed)
            for field, (colour, dashed) in looks.items()
            if field in data
        ]
        if lines:
            levels = _levels(r_min if kept == "rho" else None, words) if kind == "kept" else []
            charts.append(
                Chart(
                    name=f"block-{number_}-{kind}",
                    title=title,
                    axis="step",
                    x=data["step"],
                    rows=data["line"],
                    lines=lines,
                    levels=levels,
                    marks=marks,
                    floor=floor,
                    ceiling=ceiling,
                )
            )
    return charts


# The curves of each chart: colour, and whether it is dashed.
_AROUND = {"r_ema": ("ink", True), "rms": ("sky", False)}
_KEPT = {
    "rho": {"rho": ("blue", False), **_AROUND, "r_out_pre": ("purple", True)},
    "r_out_pre": {"r_out_pre": ("blue", False), **_AROUND},
}
_MIX = {"alpha": ("ink", True), "alpha_eff": ("green", False)}
_GATES = {
    "fusion_avg": ("blue", False),
    "fusion_max": ("orange", False),
    "T": ("purple", True),
}


def _levels(r_min: object, words: Words) -> list[Level]:
    levels = [
        Level(name=words("suppressing"), value=SUPPRESSING, colour="vermilion"),
        Level(name=words("strongly"), value=STRONGLY, colour="vermilion"),
    ]
    if isinstance(r_min, float):
        levels.append(Level(name="r_min", value=r_min, colour="green"))
    return levels


def metric_charts(run: Run, words: Words) -> list[Chart]:
    """Training curves by epoch: mean average precision, and the losses."""
    rows = list(enumerate(run.metrics, start=2))
    by_epoch = {int(row["epoch"]): (line, row) for line, row in rows}
    epochs = sorted(by_epoch)
    names = dict.fromkeys(name for row in run.metrics for name in row if name != "epoch")
    losses = [name for name in names if "loss" in name.lower()]
    validation = [name for name in losses if name.lower().startswith("val")]
    topics = (
        ("map", words("Mean average precision"), [n for n in names if is_map(n)]),
        ("loss-train", words("Training losses"), [n for n in losses if n not in validation]),
        ("loss-val", words("Validation losses"), validation),
    )
    charts = []
    for name, title, columns in topics:
        lines: list[Line] = []
        for column in columns:
            values = [finite(by_epoch[epoch][1].get(column)) for epoch in epochs]
            if any(value is not None for value in values):
                lines.append(
                    Line(name=short(column), values=values, colour=str(len(lines) % _PALETTE))
                )
        if lines:
            charts.append(
                Chart(
                    name=name,
                    title=title,
                    axis="epoch",
                    x=[epoch + 1 for epoch in epochs],  # as hosts count them aloud
                    rows=[by_epoch[epoch][0] for epoch in epochs],
                    lines=lines,
                    floor=0.0,
                )
            )
    return charts


def is_map(column: str) -> bool:
    """Whether a column is a mean average precision: a host's, by its words.

    >>> [is_map(name) for name in ("metrics/mAP50-95(B)", "val_map_50", "train/heatmap_loss")]
    [True, True, False]
    """
    return _MAP.search(column.lower()) is not None


def short(column: str) -> str:
    """A host's column as people say it.

    >>> short("metrics/mAP50(B)"), short("val/box_loss")
    ('mAP50', 'box_loss')
    """
    for prefix in ("train/", "val/", "metrics/"):
        column = column.removeprefix(prefix)
    return column.removesuffix("(B)")


def finite(value: float | None) -> float | None:
    """``value``, or None where it is no number to draw."""
    return value if value is not None and math.isfinite(value) else None


def summary(chart: Chart, words: Words) -> str:
    """The chart in words, for those who cannot see it: last, lowest and highest of each curve."""
    parts = []
    for line in chart.lines:
        known = [value for value in line.values if value is not None]
        low, high, last = (number(value) for value in (min(known), max(known), known[-1]))
        parts.append(
            words(
                "{name}: last {last}, lowest {low}, highest {high}",
                name=line.name,
                last=last,
                low=low,
                high=high,
            )
        )
    return "; ".join(parts)


def drawn(charts: Sequence[Chart], words: Words) -> dict[str, Any]:
    """The charts as the page's script takes them; axes that charts share are written once."""
    axes: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    seen: dict[tuple[int, tuple[Mark, ...]], int] = {}
    for chart in charts:
        key = (id(chart.x), tuple(chart.marks))
        if key not in seen:
            seen[key] = len(axes)
            axes.append(
                {
                    "name": words(chart.axis),
                    "kind": chart.axis,
                    "x": list(chart.x),
                    "rows": list(chart.rows),
                    "events": [list(mark) for mark in chart.marks],
                }
            )
        found.append(
            {
                "id": chart.name,
                "axis": seen[key],
                "range": _range(chart),
                "bridged": chart.bridged,
                "levels": [[level.name, level.value, level.colour] for level in chart.levels],
                "lines": [
                    {
                        "name": line.name,
                        "values": [_rounded(value) for value in line.values],
                        "colour": line.colour,
                        "dashed": line.dashed,
                    }
                    for line in chart.lines
                ],
            }
        )
    return {
        "axes": axes,
        "charts": found,
        "words": {"line": words("line"), "zoom": words("drag to zoom, double-click to see all")},
    }


def _marks(run: Run, block: str, words: Words) -> list[Mark]:
    """What happened to a block, by step; where all cannot be marked, states before single batches.

    A state that was begun lasts until it ended, or, where a kill has lost that event, until the
    readings say so.
    """
    begun: dict[str, Event] = {}
    found: list[Mark] = []

    def close(kind: str, *, end: int | None) -> None:
        event = begun.pop(kind, None)
        if event is not None:
            if end is None and kind == "rescue":
                end = run.monitor.recovered(block, event.step)
            found.append(Mark(event.step, end, kind, words.told(event.message)))

    for event in run.events:
        if event.block not in {block, ""}:
            continue
        kind = event.kind.removesuffix("_ended")
        if kind not in _STATES:
            found.append(Mark(event.step, None, event.kind, words.told(event.message)))
            continue
        close(kind, end=None if event.kind == kind else event.step)
        if event.kind == kind:
            begun[kind] = event
    for kind in list(begun):
        close(kind, end=None)
    found.sort(key=lambda mark: (mark.kind not in _STATES, mark.first))
    return sorted(found[:_MARKS], key=lambda mark: mark.first)


_STATES = ("rescue", "suppressing")


def _range(chart: Chart) -> list[float]:
    known = [value for line in chart.lines for value in line.values if value is not None]
    low, high = min(known), max(known)
    room = 0.06 * (high - low or abs(high) or 1.0)
    if not math.isfinite(high + room - low):  # the ends of what a float can be
        return [low, high]
    low = min(low - room, chart.floor) if chart.floor is not None else low - room
    if chart.floor == 0.0 and min(known) >= 0.0:
        low = 0.0
    return [low, max(high + room, chart.ceiling or high + room)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
