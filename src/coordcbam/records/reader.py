"""Reading a run, whole or half written: what cannot be read becomes a problem, not an error."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from coordcbam._support.errors import UsageError
from coordcbam.records.pictures import read_pictures
from coordcbam.records.readings import Readings
from coordcbam.records.run import Run
from coordcbam.records.schema import (
    EVENTS,
    FOLDER,
    METRICS,
    MONITOR,
    RUN,
    Event,
    NewerFormatError,
    RunInfo,
)
from coordcbam.records.table import no_table, read_table

_T = TypeVar("_T")
_UNREADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
    *(StopIteration, csv.Error),
)


def read_run(folder: Path) -> Run:
    """The run in ``folder``, which is the run's own folder or the ``save_dir`` above it.

    Raises:
        UsageError: there is no run, or it was written by a newer coordcbam.

    >>> read_run(Path("no/such/place"))
    Traceback (most recent call last):
        ...
    coordcbam._support.errors.UsageError: no/such/place: expected a run's folder with run.json or \
monitor.csv in it or in its coordcbam/; give the save_dir of a run
    """
    home = _home(Path(folder))
    problems: list[str] = []
    return Run(
        folder=home,
        info=_read_info(home / RUN, problems),
        monitor=_read_monitor(home / MONITOR, problems),
        metrics=tuple(read_metrics(home / METRICS, problems)),
        events=tuple(_read_events(home / EVENTS, problems)),
        pictures=tuple(read_pictures(home, problems)),
        problems=tuple(problems),
    )


def _home(folder: Path) -> Path:
    for home in (folder, folder / FOLDER):
        if any((home / name).is_file() for name in (RUN, MONITOR)):
            return home
    raise UsageError(
        f"{folder.as_posix()}: expected a run's folder with {RUN} or {MONITOR} in it or in its "
        f"{FOLDER}/; give the save_dir of a run"
    )


def _read_info(path: Path, problems: list[str]) -> RunInfo:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, Mapping):
            raise UsageError(f"{path.name} holds a {type(raw).__name__}, expected an object")
        return RunInfo.from_dict(raw)
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: places, options and versions are unknown")
    except NewerFormatError:
        raise
    except UsageError as error:
        problems.append(str(error))
    except ValueError as error:  # not JSON, or not text
        problems.append(f"{path.name} is not readable: {error}")
    return RunInfo.from_dict({})


def _read_monitor(path: Path, problems: list[str]) -> Readings:
    problems.extend(
        f"{old.name} has earlier rows with other columns; they are not shown"
        for old in sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))
    )
    if not path.is_file():
        problems.append(f"{path.name} is missing: no block was read")
        return Readings(no_table())
    return Readings(read_table(path, problems))


def read_metrics(path: Path, problems: list[str]) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``, without their empty cells; an absent file has none."""
    if not path.is_file():
        return []
    header, lines = _table(path, problems)
    if "epoch" not in header:
        problems.append(f"{path.name} has no column 'epoch'")
        return []

    def row(line: str) -> dict[str, float]:
        values = {name: float(cell) for name, cell in _cells(header, line) if cell}
        epoch = float(int(values.pop("epoch")))  # raises where it is no number
        return {"epoch": epoch, **values}

    return _each(path, lines, row, problems, first=2)


def _read_events(path: Path, problems: list[str]) -> list[Event]:
    if not path.is_file():
        return []

    def event(line: str) -> Event:
        raw = json.loads(line)
        words = {name: str(raw.get(name, "")) for name in ("block", "kind", "message")}
        return Event(step=int(raw.get("step", 0)), epoch=int(raw.get("epoch", 0)), **words)

    return _each(path, _lines(path, problems), event, problems, first=1)


def _table(path: Path, problems: list[str]) -> tuple[list[str], list[str]]:
    lines = _lines(path, problems)
    return (next(csv.reader(lines[:1])), lines[1:]) if lines else ([], [])


def _cells(header: list[str], line: str) -> list[tuple[str, str]]:
    cells = next(csv.reader([line]))
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells for {len(header)} columns")
    return list(zip(header, cells, strict=True))


def _lines(path: Path, problems: list[str]) -> list[str]:
    """The whole lines of ``path``; a last one without its newline was cut by a kill."""
    # A crashed disk leaves NUL bytes, on which Python 3.10's csv module stops altogether.
    text = (
        path.read_bytes()
        .replace(b"\0", b"?")
        .decode("utf-8", errors="replace")
        .removeprefix("\ufeff")
    )
    *lines, torn = text.split("\n")
    if torn:
        problems.append(f"{path.name}: the last line is torn and was skipped")
    return lines


def _each(
    path: Path, lines: list[str], parse: Callable[[str], _T], problems: list[str], *, first: int
) -> list[_T]:
    parsed = [_attempt(parse, line) for line in lines]
    bad = [number for number, item in enumerate(parsed, start=first) if item is None]
    if bad:
        count = "1 unreadable line" if len(bad) == 1 else f"{len(bad)} unreadable lines"
        problems.append(f"{path.name}: {count} skipped, from line {bad[0]}")
    return [item for item in parsed if item is not None]


def _attempt(parse: Callable[[str], _T], line: str) -> _T | None:
    try:
        return parse(line)
    except _UNREADABLE:
        return None
