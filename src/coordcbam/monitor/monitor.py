"""The monitor of a training run: reads on a schedule, writes the run's records."""

import dataclasses
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed
from torch import nn

from coordcbam._support.errors import UsageError, shown
from coordcbam._version import __version__
from coordcbam.block import CoordCBAM, GuardedResidual, Stats, certify
from coordcbam.insert import blocks, commit_, label
from coordcbam.monitor.diagnose import Diagnosis
from coordcbam.monitor.loggers import Loggers, gates
from coordcbam.monitor.reading import read
from coordcbam.records import Place, RunInfo, RunWriter, set_aside


class Monitor:
    """Watches every block of a model: ``step()`` after each optimizer step, ``close()`` at the end.

    A step also moves the blocks' averages (``commit_``), so in a distributed training every process
    has a monitor and calls it; only the first one writes.

    Writes ``<out_dir>/coordcbam/``: ``run.json``, ``monitor.csv`` (one line a block every ``every``
    steps, read with one transfer for all blocks; in between the blocks measure only what moves
    their averages), ``metrics.csv`` and ``events.jsonl``. A run that is resumed, with
    ``first_step``, continues its folder; what another run left there moves to ``previous/``.

    Args:
        model: the module in training; it must have blocks.
        out_dir: the run's folder.
        every: steps between two readings, 1 or more.
        first_step: number of the first step, for a run that is resumed.
        commits: whether ``step()`` calls ``commit_``; False where something else does.
        host: what trains the model, for the record.
        command: how the run was started, for the record.
        versions: the host's versions, added to Python's, torch's and ours.
        cost: what the blocks add, for the record, as :func:`coordcbam.preflight.cost` counts it.
        loggers: who gets every reading, too: ``coordcbam.monitor.loggers`` has some, and anything
            with ``log(values, step)`` is one. One that fails is switched off with a warning.
        probe: what to call ``model`` with at each reading, in eval mode, to see the gates, for the
            loggers that take histograms: a tensor, or a tuple of arguments.

    Raises:
        UsageError: no blocks in ``model``, a wrong ``every`` or ``commits``, or what is no logger.

    >>> import tempfile
    >>> model = nn.Sequential(CoordCBAM(8))
    >>> with tempfile.TemporaryDirectory() as folder, Monitor(model, folder, every=1) as monitor:
    ...     _ = model(torch.randn(2, 8, 6, 6))
    ...     _ = monitor.step()
    ...     sorted(path.name for path in Path(folder, "coordcbam").iterdir())
    ['events.jsonl', 'monitor.csv', 'run.json']
    """

    def __init__(  # noqa: PLR0913
        self,
        model: nn.Module,
        out_dir: str | Path,
        *,
        every: int = 10,
        first_step: int = 0,
        commits: bool = True,
        host: str = "pytorch",
        command: str = "",
        versions: Mapping[str, str] | None = None,
        cost: Mapping[str, float] | None = None,
        loggers: Iterable[Any] = (),
        probe: Any = None,
    ) -> None:
        found = blocks(model)
        if not found:
            raise UsageError(
                "Monitor: the model has no blocks; insert_(model, at=...) puts them in"
            )
        _check("every", every, "an integer >= 1", _counts(every, 1))
        _check("first_step", first_step, "an integer >= 0", _counts(first_step, 0))
        _check("commits", commits, "True or False", isinstance(commits, bool))
        _check("out_dir", out_dir, "a path", isinstance(out_dir, (str, os.PathLike)))
        _check("host", host, "a string", isinstance(host, str))
        _check("command", command, "a string", isinstance(command, str))
        known = versions is None or isinstance(versions, Mapping)
        _check("versions", versions, "a mapping of names to versions", known)
        known = cost is None or isinstance(cost, Mapping)
        _check("cost", cost, "a mapping of names to numbers", known)
        asked = Loggers(loggers)
        for _, block in found:
            block.monitor = block.detailed = True
        self.model = model
        self.every = every
        self.commits = commits
        self.folder = Path(out_dir) / "coordcbam"
        self.steps = self._first_step = first_step
        self.epoch = 0
        self._started = time.monotonic()
        skipped = {label(path): float(block.skipped) for path, block in found if block.targets}
        self._diagnosis = Diagnosis(skipped)
        info = RunInfo(
            host=host,
            command=command,
            config=_common([_config(block) for _, block in found]),
            certificate=_of_all([_certificate(block) for _, block in found]),
            versions={
                "coordcbam": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                **(versions or {}),
            },
            cost=dict(cost or {}),
            places=tuple(
                Place(
                    path=label(path),
                    channels=getattr(block, "channels", 0),
                    parameters=sum(parameter.numel() for parameter in block.parameters()),
                )
                for path, block in found
            ),
        )
        if _writes() and first_step == 0:
            set_aside(Path(out_dir))
        self._writer = RunWriter(self.folder, info, Stats._fields) if _writes() else None
        self._loggers = asked if _writes() else Loggers()
        self._probe = probe

    def step(self, epoch: int | None = None) -> dict[str, dict[str, float]] | None:
        """Count one step and, every ``every`` of them from the first, read and record.

        Args:
            epoch: the current epoch, from 0; the last one given holds until the next.

        Returns:
            The readings as ``{block: {field: value}}``, or None on a step without one.
        """
        if self.commits:
            commit_(self.model)
        if epoch is not None:
            _check("epoch", epoch, "an integer >= 0", _counts(epoch, 0))
            self.epoch = epoch
        due = self._due()
        self.steps += 1
        readings = self.record() if due else None
        self._ask(self._due())
        return readings

    def _due(self) -> bool:
        """Whether the step that is now counted is one to read after."""
        return (self.steps - self._first_step) % self.every == 0

    def _ask(self, detailed: bool) -> None:  # noqa: FBT001
        """Have the next forwards write all their numbers, or only what moves the average."""
        for _, block in blocks(self.model):
            block.detailed = detailed

    def record(self) -> dict[str, dict[str, float]]:
        """Read every block now and write the rows and what they mean."""
        readings = read(self.model)
        step = max(self.steps - 1, self._first_step)
        seconds = time.monotonic() - self._started
        if self._writer is not None:
            rows = {block: list(values.values()) for block, values in readings.items()}
            self._writer.rows(step, self.epoch, seconds, rows)
            for event in self._diagnosis.changes(step, self.epoch, readings):
                self._writer.event(event)
        self._loggers.scalars(readings, step)
        if self._probe is not None:
            self._loggers.histograms(lambda: gates(self.model, self._probe), step)
        return readings

    def metrics(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record an epoch's numbers, such as mAP and losses."""
        if self._writer is not None:
            self._writer.metrics(epoch, values)

    def close(self, *, status: str = "finished", result: Mapping[str, float] | None = None) -> None:
        """Write the run's end; the files are complete at any moment before it, too."""
        self._ask(detailed=True)
        if self._writer is not None:
            self._writer.finish(status, result=result)
            self._writer.close()
        if status == "finished":  # one that failed may be resumed, and sends them then
            self._loggers.pictures(self.folder, max(self.steps - 1, self._first_step))
        self._loggers.close(status)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(status="finished" if kind is None else "failed")


def _counts(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check(name: str, value: Any, expected: str, holds: bool) -> None:  # noqa: FBT001
    if not holds:
        raise UsageError(f"Monitor.{name}={shown(value)}: expected {expected}")


def _writes() -> bool:
    """Whether this process is the one that writes."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def _config(block: GuardedResidual) -> dict[str, Any]:
    if isinstance(block, CoordCBAM):
        return {"preset": block.config.name, **block.config.to_dict()}
    rescue = None if block.rescue is None else dataclasses.asdict(block.rescue)
    return {"preset": "guard", "rescue": rescue}


def _certificate(block: GuardedResidual) -> dict[str, Any]:
    """What the block guarantees; of a guarded one only the rescue's threshold is known."""
    if isinstance(block, CoordCBAM):
        return dataclasses.asdict(certify(block.config))
    return {"r_min": None if block.rescue is None else block.rescue.r_min}


def _common(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the options of all blocks have in common, under the preset "mixed" where they differ."""
    first, *others = configs
    if all(other == first for other in others):
        return first
    return {**_shared(configs), "preset": "mixed"}


def _shared(tables: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tables[0].items():
        values = [table.get(name) for table in tables]
        if all(other == value for other in values):
            found[name] = value
        elif all(isinstance(other, dict) for other in values):
            found[name] = _shared(values)  # type: ignore[arg-type]
    return found


def _of_all(certificates: list[dict[str, Any]]) -> dict[str, Any]:
    """What holds for every block: what they have in common, and the widest range of gains."""
    found = _shared(certificates)
    for name, widest in (("gain_min", min), ("gain_max", max)):
        values = [certificate.get(name) for certificate in certificates]
        known = [value for value in values if value is not None]
        found.pop(name, None)
        if len(known) == len(values):
            found[name] = widest(known)
    return found
