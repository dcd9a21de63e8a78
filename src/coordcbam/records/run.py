"""A run in memory, with the few questions every reader of it asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordcbam.records.pictures import Picture
from coordcbam.records.readings import Readings
from coordcbam.records.schema import METRICS, Event, RunInfo


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that could be read of a run; ``problems`` has a line for what could not."""

    folder: Path
    info: RunInfo
    monitor: Readings
    metrics: tuple[Mapping[str, float], ...]
    events: tuple[Event, ...]
    pictures: tuple[Picture, ...]
    problems: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the host, where it leaves them
    metrics_file: str = METRICS

    def blocks(self) -> list[str]:
        """The names of the blocks: the places in their order, then others that were read."""
        return list(dict.fromkeys([*(p.path for p in self.info.places), *self.monitor.blocks()]))

    def series(self, block: str, field: str) -> tuple[list[int], list[float]]:
        """The steps at which ``field`` of ``block`` was written, rising, and its values there."""
        return self.monitor.series(block, field)
