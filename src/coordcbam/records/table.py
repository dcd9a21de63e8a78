"""``monitor.csv`` as columns: stretches of whole lines, read fast where every line is flawless.

A stretch with anything odd in it is read line by line instead, so that one bad line costs a line.
"""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordcbam._support.extras import require
from coordcbam.records.schema import ROW_COLUMNS

if TYPE_CHECKING:
    import polars as pl

STRETCH = 1 << 24  # bytes
_MAX_LINE = 1 << 20
_INT64 = 1 << 63


def read_table(path: Path, problems: list[str]) -> "pl.DataFrame":
    """The readable rows of ``path``, with ``line`` numbers as an editor counts them.

    Columns that are absent get their default, and a line in ``problems``, as does what was skipped.

    Raises:
        MissingExtraError: polars is absent.
    """
    require("polars", for_what="reading a run")
    import polars as pl

    with path.open("rb") as file:
        header = _header(file.readline(_MAX_LINE))
        absent = [name for name in ROW_COLUMNS if name not in header]
        if header and absent:
            problems.append(f"{path.name} has no column {', '.join(map(repr, absent))}")
        if "step" in absent or "block" in absent:
            return no_table()
        bad: list[int] = []
        frames = [pl.DataFrame(schema={"line": pl.Int64, **_types(header)})]
        number = 2
        for stretch in _stretches(file, path.name, problems):
            count = stretch.count(b"\n")
            frame = _fast(stretch, count, header)
            if frame is None:
                frame = _careful(stretch, number, header, bad)
            else:
                frame = frame.with_row_index("line", offset=number)
            frames.append(frame.select(pl.col("line").cast(pl.Int64), pl.exclude("line")))
            number += count
    if bad:
        lines = "1 unreadable line" if len(bad) == 1 else f"{len(bad)} unreadable lines"
        problems.append(f"{path.name}: {lines} skipped, from line {bad[0]}")
    whole = _of_one_history(pl.concat(frames))
    defaults = {"epoch": pl.lit(0, pl.Int64), "seconds": pl.lit(math.nan)}
    return whole.with_columns(**{k: v for k, v in defaults.items() if k in absent})


def _of_one_history(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Without what a killed run had written past the step at which it was resumed.

    There the steps go back, and so does the clock, which a resumed run begins again: of a single
    odd line that alone would be taken for a resume both together would have to be wrong.
    """
    import polars as pl

    if "seconds" not in rows.columns or rows["step"].is_sorted():
        return rows
    back = (pl.col("step").diff() < 0) & (pl.col("seconds").diff() < 0)
    begun = pl.when(back).then(pl.col("step"))
    ahead = begun.reverse().cum_min().reverse().backward_fill().shift(-1)
    return rows.filter(ahead.is_null() | (pl.col("step") < ahead))


def no_table() -> "pl.DataFrame":
    """A table without rows or fields."""
    require("polars", for_what="reading a run")
    import polars as pl

    return pl.DataFrame(schema={"line": pl.Int64, **_types([])})


def _header(line: bytes) -> list[str]:
    text = line.replace(b"\0", b"?").decode("utf-8", errors="replace").rstrip("\r\n")
    names = next(csv.reader([text.removeprefix("\ufeff")])) if line.endswith(b"\n") and text else []
    # "line" is ours, and no two columns may have one name.
    return [
        f"{name}#{index}" if name == "line" or name in names[:index] else name
        for index, name in enumerate(names)
    ]


def _types(header: list[str]) -> dict[str, Any]:
    import polars as pl

    own = {"step": pl.Int64, "epoch": pl.Int64, "seconds": pl.Float64, "block": pl.Categorical}
    return {name: own.get(name, pl.Float64) for name in (header or own)}


def _stretches(file: io.BufferedReader, name: str, problems: list[str]) -> Iterator[bytes]:
    """Whole lines, about ``STRETCH`` bytes at a time; a last one without its end was cut."""
    torn = b""
    while chunk := file.read(STRETCH):
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            yield torn + whole + newline
            torn = rest
        else:
            torn += chunk
    if torn:
        problems.append(f"{name}: the last line is torn and was skipped")


def _fast(stretch: bytes, count: int, header: list[str]) -> "pl.DataFrame | None":
    """All the lines at once, or None if any of them is not as the writer writes it."""
    import polars as pl

    try:
        frame = pl.read_csv(stretch, has_header=False, schema=_types(header))
    except (pl.exceptions.PolarsError, ValueError):
        return None
    if frame.height != count or any(frame.null_count().row(0)):
        return None
    return frame


def _careful(stretch: bytes, number: int, header: list[str], bad: list[int]) -> "pl.DataFrame":
    """Line by line; the numbers of those that are no rows go to ``bad``."""
    import polars as pl

    # A crashed disk leaves NUL bytes, on which Python 3.10's csv module stops altogether.
    text = stretch.replace(b"\0", b"?").decode("utf-8", errors="replace")
    rows = []
    for at, line in enumerate(text.split("\n")[:-1], start=number):
        row = _row(header, line.removesuffix("\r"))
        if row is None:
            bad.append(at)
        else:
            rows.append({"line": at, **row})
    return pl.DataFrame(rows, schema={"line": pl.Int64, **_types(header)})


def _row(header: list[str], line: str) -> dict[str, Any] | None:
    kinds: dict[str, Any] = {"step": int, "epoch": int, "block": str}
    try:
        cells = next(csv.reader([line]))
        named = dict(zip(header, cells, strict=True))
        whole = all(abs(int(named[name])) < _INT64 for name in ("step", "epoch") if name in named)
        if not whole:
            return None
        return {
            name: math.nan if not cell and name not in kinds else kinds.get(name, float)(cell)
            for name, cell in named.items()
        }
    except (ValueError, StopIteration, csv.Error):
        return None
