"""A preflight as people read it: what blocks do, what they cost, which place minds them most."""

import io
from collections.abc import Sequence

from coordcbam._support.rng import fork_rng
from coordcbam.preflight.result import Figure, Preflight

with fork_rng():  # rich draws when it loads
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

WIDTH = 100
_FEW = 4  # places whose numbers fit a cell
_NARROW = 78


def tables_of(found: Preflight) -> list[Table]:
    """Four tables, each 80 columns wide at most with up to three places."""
    return [_scores(found), _signals(found), _prices(found), _places(found)]


def text_of(found: Preflight) -> str:
    """All tables, the verdict and the notes as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH)
    for table in tables_of(found):
        console.print(table)
    for line in (found.verdict, *(f"note: {note}" for note in found.notes)):
        console.print(line, markup=False, highlight=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip()


def _scores(found: Preflight) -> Table:
    """What each block does to the model, before any training."""
    title, heads = "Before any training, a block at every place", ["drift"]
    before = found.without["score"]
    if before is not None:
        name = str(found.about.get("score", "score"))
        title += f"; {name} without: {before:.3f}"
        heads = [name, "over seeds", "shock", "", *heads]
    table = _table(escape(title))
    _columns(table, "block", *heads)
    for row in found.rows:
        cells = [f"{row.drift.mean:.3f}"]
        if row.score is not None and row.shock is not None:
            part = f"{100 * row.shock.mean / abs(before):+.1f} %" if before else ""
            cells = [
                f"{row.score.mean:.3f}",
                _ends(row.score),
                f"{row.shock.mean:+.3f}",
                part,
                *cells,
            ]
        table.add_row(escape(row.block), *cells, style="red" if row.harms else None)
    return table


def _signals(found: Preflight) -> Table:
    """Ratios place by place, the mean over seeds."""
    paths = [str(row["path"]) for row in found.about["places"]]
    table = _table(escape(f"The signal at {', '.join(paths)}"))
    _columns(table, "block", "std out/x", "kept", "gradient", "at input", "any out/x")
    for row in found.rows:
        at_input = "–" if row.gradient_input is None else f"{row.gradient_input.mean:.2f}"
        table.add_row(
            escape(row.block),
            _several([place.std_ratio for place in row.places]),
            _several([place.kept for place in row.places]),
            _several([place.gradient_gain for place in row.places]),
            at_input,
            f"{'' if row.certified else '~'}{_short(row.gain_min)}–{_short(row.gain_max)}",
        )
    return table


def _prices(found: Preflight) -> Table:
    table = _table("What it costs, for one sample")
    heads = ("parameters", "MFLOPs", "other M", "latency", "memory kept")
    _columns(table, "block", *heads)
    for row in found.rows:
        kept = "–" if row.memory_bytes is None else f"{row.memory_bytes / 1e3:+,.0f} kB"
        table.add_row(
            escape(row.block),
            f"+{row.parameters:,}",
            f"{row.flops / 1e6:+.2f}",
            f"{row.elementwise / 1e6:+.2f}",
            _about(row.latency_ratio),
            kept,
        )
    without = found.without
    numbers = (f"{without['flops'] / 1e6:.2f}", f"{without['elementwise'] / 1e6:.2f}")
    table.add_row("the model", f"{without['parameters']:,}", *numbers, "", "", style="dim")
    return table


def _places(found: Preflight) -> Table:
    table = _table("Each place alone, the most harmful first; means over the blocks")
    heads = ("channels", "shock", "drift", "gradient", "parameters", "MFLOPs")
    _columns(table, "place", *heads)
    for row in found.ranking:
        table.add_row(
            escape(f"{row.rank}. {row.path} {row.layer}"),
            str(row.channels),
            "–" if row.shock is None else f"{row.shock:+.3f}",
            f"{row.drift:.3f}",
            "–" if row.gradient_share is None else f"{100 * row.gradient_share:.0f} %",
            f"+{row.parameters:,.0f}",
            f"{row.flops / 1e6:+.2f}",
        )
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        min_width=min(len(title) + 2, _NARROW),  # else rich breaks the title of a narrow table
    )


def _columns(table: Table, first: str, *heads: str) -> None:
    table.add_column(first, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right")


def _several(figures: Sequence[Figure | None]) -> str:
    """A number a place, one where they are the same, or the ends of many.

    >>> _several([Figure.of([0.25]), Figure.of([0.5, 0.7])])
    '.25 .60'
    >>> _several([Figure.of([1.0])] * 3)
    '1.00'
    """
    means = [figure.mean for figure in figures if figure is not None]
    words = [_short(mean) for mean in means]
    if len(set(words)) < 2:
        return words[0] if words else "–"
    return (
        " ".join(words) if len(words) <= _FEW else f"{_short(min(means))} to {_short(max(means))}"
    )


def _short(value: float) -> str:
    """Two digits, without a leading 0.

    >>> _short(0.254), _short(1.0), _short(-0.5)
    ('.25', '1.00', '-.50')
    """
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _ends(figure: Figure) -> str:
    """Both ends, where they differ.

    >>> _ends(Figure.of([0.25, 0.75])), _ends(Figure.of([0.5]))
    ('0.250 to 0.750', '')
    """
    return "" if figure.low == figure.high else f"{figure.low:.3f} to {figure.high:.3f}"


def _about(figure: Figure) -> str:
    """A ratio, and half of what lies between its ends.

    >>> _about(Figure(mean=1.25, low=1.1, high=1.3))
    'x 1.25 ± .10'
    """
    return f"x {figure.mean:.2f} ± {_short((figure.high - figure.low) / 2)}"
