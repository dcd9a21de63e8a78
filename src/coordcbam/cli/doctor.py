"""``coordcbam doctor``: what is installed, and which kernel runs each block."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coordcbam._support.errors import UsageError

if TYPE_CHECKING:
    from coordcbam.checks.diagnosis import Found

MORE = ("torchvision", "triton")  # packages that matter here, and to no benchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, and one device or dtype instead of all."""
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        help="a checkpoint or yaml of Ultralytics with blocks in it (default: a block of every "
        "preset)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default cpu, and cuda if there)")
    parser.add_argument(
        "--dtype",
        help="float32, float16, bfloat16 or float64 (default the first three)",
    )


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 1 if a block would fail, since the kernel that was chosen by name cannot run it."""
    try:
        from coordcbam.checks import diagnosis
    except UsageError as error:  # whoever imports the kernels reads the variable
        raise UsageError(f"COORDCBAM_KERNEL: {error}") from None
    from coordcbam.bench import machine, versions
    from coordcbam.kernels import chosen

    devices, dtypes = diagnosis.devices(args.device), diagnosis.dtypes(args.dtype)
    named = diagnosis.samples() if args.model is None else diagnosis.blocks_of(args.model)
    rows = [diagnosis.found(each, on, of) for each in named for on in devices for of in dtypes]
    missing, about, installed = diagnosis.kernels(), machine(), versions(*MORE)
    advice = diagnosis.advice(missing, rows)
    console = Console()
    for line in (*_about(about, installed), f"kernel: {diagnosis.choice()}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for table in (_kernel_table(missing), _block_table(rows, missing)):
        console.print()
        console.print(table)
    console.print()
    for line in advice:
        console.print(f"to do: {line}", markup=False, highlight=False, soft_wrap=True)
    return int(any(row.kernel is None for row in rows)), {
        "machine": about,
        "versions": installed,
        "chosen": chosen(),
        "kernels": [{"name": name, "missing": reason} for name, reason in missing.items()],
        "blocks": rows,
        "advice": advice,
    }


def _about(about: Mapping[str, object], installed: Mapping[str, str | None]) -> list[str]:
    """Versions and the machine, in three lines."""
    first = ("coordcbam", "python", "torch")
    others = [name for name in installed if name not in first]
    there = [f"{name} {installed[name]}" for name in others if installed[name]]
    absent = [name for name in others if not installed[name]]
    return [
        ", ".join(f"{name} {installed[name]}" for name in first),
        ", ".join(there) + (f"; not installed: {', '.join(absent)}" if absent else ""),
        ", ".join(f"{name}: {value or 'none'}" for name, value in about.items()),
    ]


def _kernel_table(missing: Mapping[str, str | None]) -> Table:
    table = _table("kernel", "here")
    for name, reason in missing.items():
        table.add_row(name, "yes" if reason is None else escape(f"no: {reason}"))
    return table


def _block_table(rows: Sequence["Found"], missing: Mapping[str, str | None]) -> Table:
    """A line a row; what the table above says of a missing kernel is not said again."""
    above = {reason: f"no kernel {name!r} here" for name, reason in missing.items() if reason}
    table = _table("block", "device", "dtype", "kernel", "why")
    for row in rows:
        kernel = "[red]ERROR[/]" if row.kernel is None else row.kernel
        why = above.get(row.reason, row.reason).replace("torch.", "")
        table.add_row(escape(row.block), row.device, row.dtype, kernel, escape(why))
    return table


def _table(*names: str) -> Table:
    """As narrow as it can be, so that a row is a line."""
    return Table(*names, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
