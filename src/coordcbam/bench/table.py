"""Measurements as people read them: a table a mode, and ours over the peers."""

from collections.abc import Sequence

from coordcbam._support.rng import fork_rng
from coordcbam.bench.peers import COORD, NOTEBOOK, OURS, SE
from coordcbam.bench.rows import COPY, Row

with fork_rng():  # rich draws when it loads
    from rich.table import Table

Over = dict[str, str | float]
WHOLE = ("nodes", "us added")  # units whose fractions nobody reads
RIVALS = (SE, COORD, NOTEBOOK)


def table_of(mode: str, rows: Sequence[Row]) -> Table:
    """A line a contender, a column a map: times a copy, or the mode's own unit."""
    of_mode = [row for row in rows if row.mode == mode]
    cases = list(dict.fromkeys((row.shape, row.layout) for row in of_mode))
    timed = any(row.ratio_to_copy is not None for row in of_mode)
    unit = "times copy_" if timed else next((row.unit for row in of_mode if row.unit), "us")
    table = Table("", title=f"{mode}, {unit}", title_justify="left")
    several = len({layout for _, layout in cases}) > 1
    for shape, layout in cases:
        table.add_column(f"{shape}\n{layout}" if several else shape, justify="right")
    for name in dict.fromkeys(row.contender for row in of_mode):
        found = {(row.shape, row.layout): row for row in of_mode if row.contender == name}
        table.add_row(name, *(_cell(found.get(case)) for case in cases))
    table.rows[-1].end_section = True
    for line, values in over_lines(mode, rows).items():
        cells = (values.get(case) for case in cases)
        table.add_row(line, *("" if value is None else f"{value:.2f}" for value in cells))
    return table


def _cell(row: Row | None) -> str:
    """A row's number; a copy's own is its time."""
    if row is None:
        return ""
    if row.contender == COPY and row.times is not None:
        return f"{row.times.p50:.0f} us"
    number = row.value if row.ratio_to_copy is None else row.ratio_to_copy
    if number is None:
        return "" if row.times is None else f"{row.times.p50:.0f} us"
    return f"{number:.0f}" if row.unit in WHOLE else f"{number:.2f}"


def over_lines(mode: str, rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], float]]:
    """``"step3 over timm se"`` and its like, map by map: ours over a rival of the same rounds."""
    lines: dict[str, dict[tuple[str, str], float]] = {}
    for each in over(rows):
        if each["mode"] == mode:
            line = f"{str(each['contender']).split()[-1]} over {each['rival']}"
            case = str(each["shape"]), str(each["layout"])
            lines.setdefault(line, {})[case] = float(each["times"])
    return lines


def over(rows: Sequence[Row]) -> list[Over]:
    """The ratio of the medians of each of our blocks and each rival, where both are there."""
    medians = {
        (row.mode, row.shape, row.layout, row.contender): row.times.p50
        for row in rows
        if row.times is not None and row.ratio_to_copy is not None
    }
    return [
        {
            "mode": mode,
            "shape": shape,
            "layout": layout,
            "contender": name,
            "rival": rival,
            "times": ours / medians[mode, shape, layout, rival],
        }
        for (mode, shape, layout, name), ours in medians.items()
        if name in OURS
        for rival in RIVALS
        if (mode, shape, layout, rival) in medians
    ]
