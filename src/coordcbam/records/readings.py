"""The readings of a run as columns, and the questions that its readers ask of them."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from coordcbam.records.reading import rescue_active, signal_kept
from coordcbam.records.schema import ROW_COLUMNS, MonitorRow

if TYPE_CHECKING:
    import polars as pl


class Readings(Sequence[MonitorRow]):
    """A sequence of :class:`MonitorRow`, kept as a table: millions of rows take a second.

    Of repeated steps, as a resumed run has them, the later line counts in every question below;
    as a sequence it holds all lines.

    Args:
        table: what :func:`read_table` gives.
    """

    def __init__(self, table: "pl.DataFrame") -> None:
        self.table = table
        self.fields = [name for name in table.columns if name not in {"line", *ROW_COLUMNS}]

    def __len__(self) -> int:
        return int(self.table.height)

    @overload
    def __getitem__(self, index: int) -> MonitorRow: ...
    @overload
    def __getitem__(self, index: slice) -> "Readings": ...
    def __getitem__(self, index: int | slice) -> "MonitorRow | Readings":
        if isinstance(index, slice):
            return Readings(self.table[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return _row(self.table.row(index, named=True))

    def __iter__(self) -> Iterator[MonitorRow]:
        return map(_row, self.table.iter_rows(named=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Readings) and bool(self.table.equals(other.table))

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    @cached_property
    def _places(self) -> "dict[str, pl.Series]":
        """Where each block's rows are, blocks in the order of their first rows."""
        import polars as pl

        # Not table.select, which copies every column first.
        blocks = pl.DataFrame([self.table["block"]]).with_row_index("at")
        found = blocks.group_by("block", maintain_order=True).agg("at")
        return dict(zip(map(str, found["block"]), found["at"], strict=True))

    def _rows(self, block: str, fields: Sequence[str]) -> "pl.DataFrame":
        """``line``, ``step`` and those of ``fields`` that there are, of a block, by rising step."""
        import polars as pl

        names = ["line", "step", *(name for name in fields if name in self.fields)]
        places = self._places.get(block)
        rows = pl.DataFrame([self.table[name] for name in names])
        rows = rows.clear() if places is None else rows[places]
        if rows["step"].is_sorted() and rows["step"].n_unique() == rows.height:
            return rows
        return rows.unique("step", keep="last", maintain_order=True).sort("step")

    def at(self, line: int) -> MonitorRow:
        """The row of a line of ``monitor.csv``."""
        return self[int(self.table["line"].search_sorted(line))]

    def blocks(self) -> list[str]:
        """The names of the blocks that were read, in the order of their first rows."""
        return list(self._places)

    def steps(self) -> tuple[int, int, int] | None:
        """How many steps were read, the first and the last; None without any."""
        steps: Any = self.table["step"]
        return (steps.n_unique(), steps.min(), steps.max()) if len(self) else None

    def highest(self, field: str) -> float | None:
        """The largest finite number in ``field`` of any block, or None."""
        if field not in self.fields:
            return None
        found: float | None = self.table[field].filter(self.table[field].is_finite()).max()
        return found

    def seconds_a_step(self) -> float | None:
        """What a step took, mean over all that were timed; a resumed run begins its clock again."""
        steps, seconds = self.table["step"].diff(), self.table["seconds"].diff()
        timed = (steps > 0) & (seconds > 0) & seconds.is_finite()
        taken, count = seconds.filter(timed).sum(), steps.filter(timed).sum()
        return float(taken) / float(count) if count else None

    def series(self, block: str, field: str) -> tuple[list[int], list[float]]:
        """The steps at which ``field`` of ``block`` was written, rising, and its values there."""
        if field not in self.fields:
            return [], []
        rows = self._rows(block, [field])
        return rows["step"].to_list(), rows[field].to_list()

    def last(self, block: str) -> MonitorRow | None:
        """The last line of ``block``, or None."""
        places = self._places.get(block)
        return None if places is None else self[int(places[-1])]

    def lowest(self, block: str, field: str) -> MonitorRow | None:
        """The row with the smallest finite number in ``field``, the first of equals, or None."""
        rows = self._rows(block, [field])
        if field not in self.fields:
            return None
        index = rows[field].replace([math.nan, -math.inf], None).arg_min()
        return None if index is None else self.at(rows["line"][index])

    def rescued(self, block: str) -> tuple[MonitorRow, int] | None:
        """The first row of ``block`` in which the rescue was active, and how many there are."""
        rows = self._rescues(block)
        lines = rows["line"].filter(rows["active"])
        return (self.at(lines[0]), len(lines)) if len(lines) else None

    def kept(self, block: str) -> str:
        """The name of the field that says how much of its signal ``block`` keeps."""
        skipped = self._rows(block, ["skipped"])
        ours = "skipped" in skipped.columns and bool(skipped["skipped"].is_finite().any())
        return signal_kept({"skipped": 0.0 if ours else math.nan})[0]

    def recovered(self, block: str, step: int) -> int | None:
        """The first step after ``step`` at which the rescue of ``block`` was not active."""
        rows = self._rescues(block)
        steps = rows["step"].filter((rows["step"] > step) & ~rows["active"])
        return int(steps[0]) if len(steps) else None

    def _rescues(self, block: str) -> "pl.DataFrame":
        """The rows of ``block`` with both alphas, and whether the rescue is ``active``."""
        import polars as pl

        rows = self._rows(block, ("alpha", "alpha_eff"))
        if not {"alpha", "alpha_eff"} <= set(rows.columns):
            return rows.clear().with_columns(active=pl.lit(value=True))
        # To polars NaN is above every number.
        known = rows.filter(pl.col("alpha").is_finite() & pl.col("alpha_eff").is_finite())
        active: Any = rescue_active(known["alpha"], known["alpha_eff"])  # type: ignore[arg-type]
        return known.with_columns(active.alias("active"))

    def thinned(self, block: str, fields: Sequence[str], limit: int) -> dict[str, list[Any]]:
        """``step``, ``line`` and ``fields`` at about ``limit`` rows, with every dip and peak.

        Each stretch of steps keeps the rows with the lowest and the highest number of each field.
        Fields without a finite number are left out; other numbers that are not finite are None.
        """
        import polars as pl

        rows = self._rows(block, fields)
        known = [name for name in rows.columns if name not in {"line", "step"}]
        rows = rows.with_columns(pl.when(pl.col(n).is_finite()).then(pl.col(n)) for n in known)
        known = [name for name in known if rows[name].null_count() < rows.height]
        rows = rows.select("step", "line", *known)
        if known and rows.height > limit:
            rows = rows[_extremes(rows.select(known), limit)]
        return {name: rows[name].to_list() for name in rows.columns}


def _extremes(columns: "pl.DataFrame", limit: int) -> list[int]:
    """The first and the last row, and each stretch's lowest and highest of every column."""
    import polars as pl

    stretches = max(1, limit // (2 * columns.width))
    at = pl.int_range(pl.len()).alias("at")
    part = (pl.int_range(pl.len()) * stretches // pl.len()).alias("part")
    picked = (
        columns.with_columns(at, part)
        .group_by("part")
        .agg(
            *(pl.col("at").get(pl.col(n).arg_min()).alias(f"{n} low") for n in columns.columns),
            *(pl.col("at").get(pl.col(n).arg_max()).alias(f"{n} high") for n in columns.columns),
            *(  # a gap stays a gap
                pl.when(pl.col(n).null_count() == pl.len())
                .then(pl.col("at").first())
                .alias(f"{n} gap")
                for n in columns.columns
            ),
        )
    )
    found = {index for series in picked.drop("part") for index in series if index is not None}
    return sorted(found | {0, columns.height - 1})


def _row(cells: dict[str, Any]) -> MonitorRow:
    values = {name: cell for name, cell in cells.items() if name not in {"line", *ROW_COLUMNS}}
    seconds = cells.get("seconds", math.nan)
    return MonitorRow(
        step=cells["step"],
        epoch=cells.get("epoch", 0),
        seconds=math.nan if seconds is None else seconds,
        block=cells["block"],
        values={name: cell for name, cell in values.items() if cell is not None},
        line=cells["line"],
    )
