"""Axes in the report's style, and SVG text from them; no pyplot and no lasting global state."""

import contextlib
import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe and Ito's palette, which every common kind of colour vision tells apart.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#222222"

_INK, _FAINT = "#56606a", "#d5dbe1"
_WIDTH, _HEIGHT = 4.45, 2.2  # inches
_LEGEND_ROW = 0.21
_LEFT = 0.115
_FEW = 30
_THOUSANDS = 10_000
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE: Any = {
    # Text stays text: it takes the reader's font, can be searched and needs no font file.
    "svg.fonttype": "none",
    "svg.hashsalt": "coordcbam",
    "text.parse_math": False,  # "$" in a name is a letter
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.015,
    "grid.color": "#e9edf0",
    "grid.linewidth": 0.7,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.solid_joinstyle": "round",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The report's matplotlib settings, for the time of a ``with``; drawing needs them.

    >>> before = dict(mpl.rcParams)
    >>> with style():
    ...     _ = new_axes("step")
    >>> before == dict(mpl.rcParams)
    True
    """
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # someone's own settings, such as LaTeX text, must not change the page
        mpl.rcParams.update(_STYLE)
        # A letter that matplotlib's font lacks only makes its width a guess: the text is kept.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def new_axes(x_label: str, *, legend_rows: int = 1, right: float = 0.975) -> tuple[Figure, Axes]:
    """A figure and its empty axes; ``right`` is where the plot ends, 0 to 1."""
    height = _HEIGHT + (legend_rows - 1) * _LEGEND_ROW
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_axes(
        (_LEFT, 0.4 / height, right - _LEFT, (height - 0.46 - legend_rows * _LEGEND_ROW) / height)
    )
    axes.set_xlabel(x_label, loc="right", labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(visible=False, axis="x")
    return figure, axes


def tick(value: float) -> str:
    """A step or an epoch as a short label.

    >>> tick(300), tick(9500), tick(160_000), tick(12_500)
    ('300', '9,500', '160k', '12.5k')
    """
    return f"{value / 1000:g}k" if abs(value) >= _THOUSANDS else f"{value:,.0f}"


def line(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    label: str,
    *,
    look: tuple[str, str, float],
) -> None:
    """One curve in ``look = (colour, dashes, width in points)``; few points get dots as well."""
    colour, dashes, width = look
    few = sum(map(math.isfinite, ys)) <= _FEW
    axes.plot(
        xs,
        ys,
        color=colour,
        linestyle=dashes,
        linewidth=width,
        marker="o" if few else "",
        markersize=2.6,
        label=label,
    )
    if len(xs) == 1:  # matplotlib would spread five labels around the one step
        axes.set_xticks(list(xs))


def finish(axes: Axes, *, columns: int) -> None:
    """Put the names of the curves above the plot, as they are written."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        ncols=columns,
        borderpad=0,
        handlelength=1.9,
        columnspacing=1.4,
        fontsize=8.5,
    )


def to_svg(figure: Figure, name: str, title: str) -> str:
    """``figure`` as an ``<svg>`` element that fills its container's width.

    Args:
        figure: made by :func:`new_axes`.
        name: prefixed to every id, so that many figures can stand in one page.
        title: what the figure shows, for screen readers and as the tooltip.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"'?DejaVu Sans'?[^;\"]*?(?=[;\"])", _FONTS, text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    head, body = text.split(">", maxsplit=1)
    return f'{head} role="img">\n<title>{html.escape(title)}</title>{body}\n'
