"""Which curves a run gets: two figures per block, one for mAP, two for the losses."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coordcbam.records import STRONGLY, SUPPRESSING, Run
from coordcbam.records.reading import rescue_active
from coordcbam.report import canvas
from coordcbam.report.thinning import thin

_Key = TypeVar("_Key")
_Curves = Mapping[str, Sequence[float]]
_CYCLE = (
    canvas.BLUE,
    canvas.VERMILION,
    canvas.GREEN,
    canvas.PURPLE,
    canvas.ORANGE,
    canvas.SKY,
    canvas.BLACK,
)
_DASHES = ("-", "--", ":", "-.")
_LEGEND_COLUMNS = 4
_MEASURES = {"r_out_pre": "std(out) / std(x)", "rho": "<x, out> / <x, x>"}
_WIDE = 1.6  # a span of the y axis over which the two alarm lines come too close for two labels


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure: ``name`` for its file, ``group`` a block or ``None``, ``caption``, ``svg``."""

    name: str
    group: str | None
    caption: str
    svg: str


def draw(run: Run) -> list[Drawing]:
    """Every figure the run has numbers for, in the order of the page.

    Absent columns, NaN and an empty run raise nothing: what cannot be drawn is left out.
    """
    with canvas.style():
        return [*_block_drawings(run), *_metric_drawings(run)]


def slug(name: str) -> str:
    """``name`` as part of a file name or an id.

    >>> slug("model.16/../<x>")
    'model.16-..-x'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")[:60]


def _block_drawings(run: Run) -> Iterator[Drawing]:
    threshold = run.info.certificate.get("r_min")
    levels = {"r_min": threshold} if isinstance(threshold, float) else {}

    def ratio(steps: Sequence[int], curves: _Curves) -> Figure:
        return _ratio(steps, curves, levels if "rho" in curves else {})

    for number, block in enumerate(run.blocks(), start=1):
        kept = run.kept(block)
        kinds = (
            ("ratio", f"Signal kept: {_MEASURES[kept]}", (kept, "r_ema"), ratio),
            ("alpha", "The block's share of the mix", ("alpha_eff", "alpha"), _alpha),
        )
        for kind, caption, fields, plot in kinds:
            steps, curves = _together(run, block, fields)
            if steps:
                name = f"block-{number:02}-{slug(block)}-{kind}"
                svg = canvas.to_svg(plot(steps, curves), name, f"{block}. {caption}")
                yield Drawing(name=name, group=block, caption=caption, svg=svg)


def _together(run: Run, block: str, fields: Sequence[str]) -> tuple[list[int], _Curves]:
    """The fields with any finite number, on the union of their steps, thinned for drawing."""
    series = {field: dict(zip(*run.series(block, field), strict=True)) for field in fields}
    series = {
        field: found for field, found in series.items() if any(map(math.isfinite, found.values()))
    }
    steps = sorted({step for found in series.values() for step in found})
    whole = [[_finite(found, step) for step in steps] for found in series.values()]
    kept, thinned = thin(steps, *whole)
    return kept, dict(zip(series, thinned, strict=True))


def _finite(values: Mapping[_Key, float], key: _Key) -> float:
    value = values.get(key, math.nan)
    return value if math.isfinite(value) else math.nan


def _ratio(steps: Sequence[int], curves: _Curves, levels: Mapping[str, float]) -> Figure:
    figure, axes = canvas.new_axes("step", right=0.76)
    average = (canvas.BLACK, "--", 1.1)
    for name, values in curves.items():
        look = average if name == "r_ema" else (canvas.BLUE, "-", 1.4)
        canvas.line(axes, steps, values, name, look=look)
    low, high = _span(curves)
    axes.set_ylim(min(0.25, low - 0.05), max(1.05, high + 0.05))
    bottom, top = axes.get_ylim()
    wide = top - bottom > _WIDE
    _level(axes, SUPPRESSING, "suppressing", va="bottom" if wide else "center")
    _level(axes, STRONGLY, "strongly", va="top" if wide else "center")
    for name, level in levels.items():
        _level(axes, level, name, colour=canvas.GREEN)
    canvas.finish(axes, columns=_LEGEND_COLUMNS)
    return figure


def _level(
    axes: Axes, level: float, word: str, *, colour: str = canvas.VERMILION, va: str = "center"
) -> None:
    """A dotted line across the figure, named in its right margin."""
    axes.axhline(level, color=colour, linewidth=1.0, linestyle=(0, (1, 2)))
    axes.text(
        1.015,
        level,
        f"{level:.2f} {word}",
        transform=axes.get_yaxis_transform(),
        va=va,
        color=colour,
        fontsize=8.5,
    )


def _alpha(steps: Sequence[int], curves: _Curves) -> Figure:
    figure, axes = canvas.new_axes("step")
    looks = {"alpha_eff": (canvas.GREEN, "-", 2.2), "alpha": (canvas.BLACK, "--", 1.0)}
    for name, values in curves.items():
        canvas.line(axes, steps, values, name, look=looks[name])
    if len(curves) == len(looks):
        pairs = zip(curves["alpha"], curves["alpha_eff"], strict=True)
        taken = [rescue_active(alpha, effective) for alpha, effective in pairs]
        if any(taken):
            axes.fill_between(
                steps,
                curves["alpha_eff"],
                curves["alpha"],
                where=taken,
                color=canvas.ORANGE,
                alpha=0.35,
                linewidth=0,
                label="taken by the rescue",
            )
    low, high = _span(curves)
    axes.set_ylim(min(0.0, low - 0.05), max(1.05, high + 0.05))
    canvas.finish(axes, columns=_LEGEND_COLUMNS)
    return figure


def _span(curves: _Curves) -> tuple[float, float]:
    known = [value for values in curves.values() for value in values if math.isfinite(value)]
    return min(known), max(known)


def _metric_drawings(run: Run) -> Iterator[Drawing]:
    names = dict.fromkeys(name for row in run.metrics for name in row if name != "epoch")
    losses = [name for name in names if "loss" in name.lower()]
    validation = [name for name in losses if name.lower().startswith("val")]
    topics = (
        ("map", "Mean average precision", [name for name in names if "map" in name.lower()]),
        ("loss-train", "Training losses", [name for name in losses if name not in validation]),
        ("loss-val", "Validation losses", validation),
    )
    rows = sorted({int(row["epoch"]): row for row in run.metrics}.items())
    for stem, caption, columns in topics:
        curves = {name: [_finite(row, name) for _, row in rows] for name in columns}
        curves = {
            name: values for name, values in curves.items() if any(map(math.isfinite, values))
        }
        if curves:
            figure = _per_epoch([epoch for epoch, _ in rows], curves)
            svg = canvas.to_svg(figure, stem, caption)
            yield Drawing(name=stem, group=None, caption=caption, svg=svg)


def _per_epoch(epochs: Sequence[int], curves: _Curves) -> Figure:
    rows = math.ceil(len(curves) / _LEGEND_COLUMNS)
    figure, axes = canvas.new_axes("epoch", legend_rows=rows)
    for number, (name, values) in enumerate(curves.items()):
        colour, dashes = _CYCLE[number % len(_CYCLE)], _DASHES[number // len(_CYCLE) % 4]
        short = name.removeprefix("train/").removeprefix("val/").removeprefix("metrics/")
        short = short.removesuffix("(B)")
        canvas.line(axes, epochs, values, short, look=(colour, dashes, 1.4))
    low, high = _span(curves)
    axes.set_ylim(min(0.0, low), high * 1.08 if high > 0 else 1.0)
    canvas.finish(axes, columns=_LEGEND_COLUMNS)
    return figure
