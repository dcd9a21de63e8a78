"""Writing a run while it trains, so that a kill at any moment leaves a readable folder."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

from coordcbam._support.errors import UsageError
from coordcbam._support.files import write_atomically
from coordcbam.records.append import continue_file
from coordcbam.records.metrics import read_metrics
from coordcbam.records.schema import (
    EVENTS,
    METRICS,
    MONITOR,
    ROW_COLUMNS,
    RUN,
    Event,
    NewerFormatError,
    RunInfo,
    plain,
)


class RunWriter:
    """The open files of one run; an existing folder is continued, its rows kept.

    As a context manager it marks the run finished on leaving, or failed when an error passes.

    Args:
        folder: the run's own folder, made if absent.
        info: what ``run.json`` says; a continued run keeps its first ``started`` and its notes.
        fields: names of a block's numbers, in the order in which :meth:`rows` gets them.

    Raises:
        UsageError: names in ``fields`` repeat, or a newer coordcbam wrote this folder.

    >>> import tempfile
    >>> info = RunInfo(host="torch", places=(), config={}, versions={})
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with RunWriter(Path(tmp), info, ["r_out_pre", "alpha"]) as writer:
    ...         writer.rows(0, 0, 0.25, {"model.16": (0.745, float("nan"))})
    ...     print(Path(tmp, "monitor.csv").read_text(), end="")
    step,epoch,seconds,block,r_out_pre,alpha
    0,0,0.25,model.16,0.745,nan
    """

    def __init__(self, folder: Path, info: RunInfo, fields: Sequence[str]) -> None:
        header = [*ROW_COLUMNS, *fields]
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise UsageError(f"fields: {twice!r} appears twice; expected distinct column names")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._fields = tuple(fields)
        self._info = _continued(self.folder / RUN, info)
        self._save_info()
        self._metrics = {row["epoch"]: row for row in read_metrics(self.folder / METRICS, [])}
        continue_file(self.folder / MONITOR, _csv_lines([header]))
        continue_file(self.folder / EVENTS, b"")
        # Unbuffered: one call of rows() is one write of whole lines.
        self._monitor = (self.folder / MONITOR).open("ab", buffering=0)
        self._events = (self.folder / EVENTS).open("ab", buffering=0)

    def rows(
        self, step: int, epoch: int, seconds: float, blocks: Mapping[str, Sequence[float]]
    ) -> None:
        """Append one line per block, all in one write.

        Args:
            step: the optimizer step, from 0.
            epoch: the epoch, from 0.
            seconds: wall time since the run began.
            blocks: by block name, one number per field; NaN is allowed.

        Raises:
            UsageError: a block has more or fewer numbers than there are fields; nothing is written.
        """
        lines: list[list[object]] = []
        for block, values in blocks.items():
            if len(values) != len(self._fields):
                raise UsageError(
                    f"rows(): block {block!r} has {len(values)} numbers, expected one for each "
                    f"of the {len(self._fields)} fields"
                )
            name = " ".join(block.splitlines())
            numbers = [repr(float(value)) for value in values]
            lines.append([int(step), int(epoch), repr(float(seconds)), name, *numbers])
        if lines:
            self._monitor.write(_csv_lines(lines))

    def metrics(self, epoch: int, values: Mapping[str, float]) -> None:
        """Set the numbers of ``epoch``; the file is replaced, its columns the union of all.

        An epoch that a resumed run repeats is replaced too.
        """
        key = float(epoch)
        self._metrics[key] = {
            **{name: float(value) for name, value in values.items()},
            "epoch": key,
        }
        rows = [self._metrics[number] for number in sorted(self._metrics)]
        names = dict.fromkeys(name for row in rows for name in row if name != "epoch")
        body = [
            [int(row["epoch"]), *(repr(row[name]) if name in row else "" for name in names)]
            for row in rows
        ]
        write_atomically(self.folder / METRICS, _csv_lines([["epoch", *names], *body]))

    def event(self, event: Event) -> None:
        """Append one line to ``events.jsonl``."""
        self._events.write(json.dumps(plain(asdict(event))).encode() + b"\n")

    def finish(
        self,
        status: str,
        *,
        result: Mapping[str, float] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        """Replace ``run.json``: the status, the final numbers if given, the notes added.

        Raises:
            UsageError: ``status`` is not running, finished or failed.
        """
        self._info = replace(
            self._info,
            status=status,
            result=self._info.result if result is None else dict(result),
            notes=_joined(self._info.notes, notes),
        )
        self._save_info()

    def close(self) -> None:
        """Close the files; the status in ``run.json`` stays as it is. Closing twice is fine."""
        self._monitor.close()
        self._events.close()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._info.status == "running":
            if kind is None:
                self.finish("finished")
            else:
                self.finish("failed", notes=[f"{kind.__name__}: {error}".rstrip(": ")])
        self.close()

    def _save_info(self) -> None:
        text = json.dumps(self._info.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        write_atomically(self.folder / RUN, text + "\n")


def _csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _joined(*notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for group in notes for note in group))


def _continued(path: Path, info: RunInfo) -> RunInfo:
    try:
        before = RunInfo.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except NewerFormatError:
        raise
    except (FileNotFoundError, ValueError):  # no run yet, or nothing worth keeping
        return info
    started = before.started or info.started
    return replace(info, started=started, notes=_joined(before.notes, info.notes))
