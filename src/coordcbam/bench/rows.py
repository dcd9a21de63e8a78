"""A measurement as a row, and what all rows of one file were measured on."""

import csv
import dataclasses
import importlib.metadata
import io
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from coordcbam._support.files import write_atomically
from coordcbam._version import __version__
from coordcbam.bench.cases import Case
from coordcbam.bench.timing import Spread, spread_of

COPY = "copy_"
PACKAGES = ("torch", "timm", "ultralytics", "onnx", "onnxruntime", "onnxscript")
WHERE = ("cpu", "cores", "threads", "gpu", "python", *PACKAGES, "coordcbam")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One contender in one mode: times, or a value in ``unit``."""

    mode: str
    shape: str
    layout: str
    contender: str
    kernel: str | None = None
    times: Spread | None = None  # in microseconds
    ratio_to_copy: float | None = None
    value: float | None = None
    unit: str = ""
    note: str = ""

    def cells(self) -> dict[str, object]:
        """The row as CSV and JSON have it, flat; None where there is nothing."""
        times = self.times or (None, None, None)
        return {
            "mode": self.mode,
            "shape": self.shape,
            "layout": self.layout,
            "contender": self.contender,
            "kernel": self.kernel,
            **dict(zip(("p20_us", "p50_us", "p80_us"), times, strict=True)),
            "ratio_to_copy": self.ratio_to_copy,
            "value": self.value,
            "unit": self.unit,
            "note": self.note,
        }


COLUMNS = (*WHERE, *Row(mode="", shape="", layout="", contender="").cells())


def timed_rows(
    mode: str,
    case: Case,
    times: Mapping[str, list[float]],
    kernels: Mapping[str, str | None],
    note: str = "",
) -> list[Row]:
    """A row for every name of ``times`` (in seconds), with the ratio of its median to the copy's.

    >>> found = timed_rows("m", Case(size=(1, 1, 1, 1)), {"copy_": [2e-6], "b": [3e-6]}, {})
    >>> [(row.contender, row.ratio_to_copy) for row in found]
    [('copy_', 1.0), ('b', 1.5)]
    """
    spreads = {name: spread_of([1e6 * t for t in each]) for name, each in times.items()}
    copy = spreads[COPY].p50
    return [
        Row(
            mode=mode,
            shape=case.shape,
            layout=case.layout,
            contender=name,
            kernel=kernels.get(name),
            times=found,
            ratio_to_copy=round(found.p50 / copy, 9),
            note=note if name in kernels else "",
        )
        for name, found in spreads.items()
    ]


def machine() -> dict[str, object]:
    """The processor, how much of it is used, and the GPU if there is one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def versions(*more: str) -> dict[str, str | None]:
    """Of everything that takes part, and of ``more`` packages; None for what is not installed."""
    found = {name: _version(name) for name in (*PACKAGES, *more)}
    return {"python": platform.python_version(), **found, "coordcbam": __version__}


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows, each with the machine and the versions; an old file is replaced whole."""
    where = {**machine(), **versions()}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {**where, **row.cells()}
        writer.writerow({name: _written(cell) for name, cell in cells.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())


def _written(cell: object) -> object:
    return f"{cell:.5g}" if isinstance(cell, float) else cell


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's model, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
