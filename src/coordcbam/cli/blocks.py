"""The table of blocks that ``demo``, ``train`` and ``report`` print: the last reading of each."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from coordcbam.records import Run, read_row
from coordcbam.report.tables import headings, last_readings
from coordcbam.report.words import Words

COLOURS = {"ok": "green", "warn": "yellow", "alarm": "red", "none": "dim"}


def block_table(run: Run) -> Table:
    """A column per block, so that a terminal of 80 columns holds them, and its verdict below."""
    rows = last_readings(run)
    table = Table(title="The last reading of each block while training", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(escape(row.block), justify="right")
    for index, (title, _) in enumerate(headings(Words())):
        cells = [" ".join(part for part in row.cells[index] if part) for row in rows]
        table.add_row(title, *cells)
    verdicts = [f"[{COLOURS[row.verdict.level]}]{row.verdict.text}[/]" for row in rows]
    table.add_row("verdict", *verdicts)
    return table


def block_numbers(run: Run) -> list[dict[str, Any]]:
    """The same rows as numbers, for JSON."""
    rows = []
    for block in run.blocks():
        last = run.monitor.last(block)
        values = dict(last.values) if last else {}
        rows.append({"block": block, **values, "verdict": read_row(values).text})
    return rows
