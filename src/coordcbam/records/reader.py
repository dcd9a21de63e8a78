"""Reading a run, whole or half written: what cannot be read becomes a problem, not an error."""

import json
from collections.abc import Mapping
from pathlib import Path

from coordcbam._support.errors import UsageError
from coordcbam.records.lines import each_of, lines_of
from coordcbam.records.metrics import read_metrics
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
from coordcbam.records.unrecorded import RESULTS, read_settings, read_unrecorded


def read_run(folder: Path, *, unrecorded: bool = False) -> Run:
    """The run in ``folder``, which is the run's own folder or the ``save_dir`` above it.

    Args:
        folder: of the run.
        unrecorded: whether a run of Ultralytics that has no records of ours is taken, too.

    Raises:
        UsageError: there is no run, or it was written by a newer coordcbam.

    >>> read_run(Path("no/such/place"))
    Traceback (most recent call last):
        ...
    coordcbam._support.errors.UsageError: no/such/place: expected a run's folder with run.json or \
monitor.csv in it or in its coordcbam/; give the save_dir of a run
    """
    folder = Path(folder)
    problems: list[str] = []
    try:
        home = _home(folder)
    except UsageError:
        if unrecorded and (folder / RESULTS).is_file():
            return read_unrecorded(folder)
        raise
    return Run(
        folder=home,
        info=_read_info(home / RUN, problems),
        monitor=_read_monitor(home / MONITOR, problems),
        metrics=tuple(read_metrics(home / METRICS, problems)),
        events=tuple(_read_events(home / EVENTS, problems)),
        pictures=tuple(read_pictures(home, problems)),
        settings=read_settings(home.resolve().parent, problems),
        problems=tuple(problems),  # last: all of these have added to it
    )


def _home(folder: Path) -> Path:
    for home in (folder, folder / FOLDER):
        if any((home / name).is_file() for name in (RUN, MONITOR)):
            return home
    raise UsageError(
        f"{folder.as_posix()}: expected a run's folder with {RUN} or {MONITOR} in it or in its "
        f"{FOLDER}/; give the save_dir of a run{_below(folder)}"
    )


def _below(folder: Path) -> str:
    """The newest run in a folder of runs, for who gave ``runs`` and meant one in it."""
    found = [file for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{FOLDER}/{RUN}")]
    newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
    return "" if newest is None else f", such as {newest.parent.parent.as_posix()}"


def _read_info(path: Path, problems: list[str]) -> RunInfo:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(raw, Mapping):
            raise UsageError(f"{path.name} holds a {type(raw).__name__}, expected an object")
        return RunInfo.from_dict(raw)
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: places, options and versions are unknown")
    except NewerFormatError as error:
        raise NewerFormatError(f"{path.parent}/{error}") from None
    except UsageError as error:
        problems.append(str(error))
    except ValueError as error:  # not JSON, or not text
        problems.append(f"{path.name} is not readable: {error}")
    return RunInfo.from_dict({"status": "unknown"})


def _read_monitor(path: Path, problems: list[str]) -> Readings:
    problems.extend(
        f"{old.name} has earlier rows with other columns; they are not shown"
        for old in sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))
    )
    if not path.is_file():
        problems.append(f"{path.name} is missing: no block was read")
        return Readings(no_table())
    return Readings(read_table(path, problems))


def _read_events(path: Path, problems: list[str]) -> list[Event]:
    if not path.is_file():
        return []

    def event(line: str) -> Event:
        raw = json.loads(line)
        words = {name: str(raw.get(name, "")) for name in ("block", "kind", "message")}
        return Event(step=int(raw.get("step", 0)), epoch=int(raw.get("epoch", 0)), **words)

    return each_of(path, lines_of(path, problems), event, problems, first=1)
