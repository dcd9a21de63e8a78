"""A run in memory, with the few questions every reader of it asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from coordcbam.records.reading import signal_kept
from coordcbam.records.schema import Event, MonitorRow, RunInfo


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that could be read of a run; ``problems`` has a line for what could not.

    >>> info = RunInfo(host="torch", places=(), config={}, versions={})
    >>> row = MonitorRow(step=5, epoch=0, seconds=0.1, block="b", values={"alpha": 0.5})
    >>> run = Run(folder=Path(), info=info, monitor=(row,), metrics=(), events=(), problems=())
    >>> run.blocks(), run.series("b", "alpha"), run.last("elsewhere")
    (['b'], ([5], [0.5]), None)
    """

    folder: Path
    info: RunInfo
    monitor: tuple[MonitorRow, ...]
    metrics: tuple[Mapping[str, float], ...]
    events: tuple[Event, ...]
    problems: tuple[str, ...]

    @cached_property
    def _rows_of(self) -> dict[str, list[MonitorRow]]:
        rows: dict[str, list[MonitorRow]] = {place.path: [] for place in self.info.places}
        for row in self.monitor:
            rows.setdefault(row.block, []).append(row)
        return rows

    def blocks(self) -> list[str]:
        """The names of the blocks: the places in their order, then others that were read."""
        return list(self._rows_of)

    def series(self, block: str, field: str) -> tuple[list[int], list[float]]:
        """The steps at which ``field`` of ``block`` was written, rising, and its values there.

        A resumed run repeats the steps since its checkpoint; the later line counts.
        """
        found = {
            row.step: row.values[field]
            for row in self._rows_of.get(block, ())
            if field in row.values
        }
        steps = sorted(found)
        return steps, [found[step] for step in steps]

    def kept(self, block: str) -> str:
        """The name of the field that says how much of its signal ``block`` keeps."""
        rows = self._rows_of.get(block)
        return signal_kept(rows[-1].values if rows else {})[0]

    def last(self, block: str) -> MonitorRow | None:
        """The last reading of ``block``, or ``None`` if it was never read."""
        rows = self._rows_of.get(block)
        return rows[-1] if rows else None
