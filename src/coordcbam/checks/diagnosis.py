"""What ``doctor`` finds: the kernels of this machine, and the one that runs each block."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from coordcbam._support.errors import UsageError, nearest, shown
from coordcbam._support.extras import require
from coordcbam.block import PRESETS, BlockConfig, CoordCBAM
from coordcbam.block.checks import SIGNALS
from coordcbam.insert import blocks, label
from coordcbam.kernels import AUTO, KERNELS, chosen, kernel_for

VARIABLE = "COORDCBAM_KERNEL"
WIDTH = 64
SUFFIXES = (".pt", ".yaml", ".yml")
FASTEST = "the fastest here"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in SIGNALS}
USUAL = tuple(dtype for dtype in SIGNALS if dtype != torch.float64)

Named = tuple[str, CoordCBAM]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What runs one block, in one dtype on one device; no kernel where it would be an error."""

    block: str
    device: str
    dtype: str
    kernel: str | None
    reason: str


def kernels() -> dict[str, str | None]:
    """Of every kernel, why this machine cannot run it; None where it can."""
    return {name: kernel.missing() for name, kernel in KERNELS.items()}


def choice() -> str:
    """Which kernel is chosen, and by whom, in words."""
    if chosen() == AUTO:
        return f"{AUTO}, the fastest that can take the input"
    return f"{chosen()}, named by {VARIABLE}" if os.environ.get(VARIABLE) else chosen()


def samples() -> list[Named]:
    """A fresh block of every preset, and one with a spatial gate."""
    configs = {name: BlockConfig.preset(name) for name in PRESETS}
    last = PRESETS[-1]
    configs[f"{last} spatial"] = configs[last].replace(coord_use_spatial_gate=True)
    return [(name, CoordCBAM(WIDTH, config)) for name, config in configs.items()]


def blocks_of(file: Path) -> list[Named]:
    """The blocks in a model of Ultralytics, by the layers that they are attached to.

    Raises:
        UsageError: no such file, no model, or a model without blocks.
        MissingExtraError: Ultralytics is not installed.
    """
    if not file.is_file() or file.suffix not in SUFFIXES:
        what = "no such file" if not file.is_file() else "neither a checkpoint nor a yaml"
        raise UsageError(
            f"{file}: {what}; expected a .pt or .yaml of Ultralytics with blocks in it"
        )
    require("ultralytics", for_what="looking into a model")
    from coordcbam.hosts.ultralytics import opened

    found = blocks(opened(str(file), to="look into").model)
    ours = [(label(path), block) for path, block in found if isinstance(block, CoordCBAM)]
    if not ours:
        what = "only guards, which need no kernel" if found else "no blocks of coordcbam"
        raise UsageError(f"{file}: there are {what} in it; expected a model after insert(...)")
    return ours


def devices(name: str | None) -> list[torch.device]:
    """The device of that name, or every one that kernels are written for.

    Raises:
        UsageError: no such device here.
    """
    here = [torch.device("cpu")]
    if torch.cuda.is_available():
        here.append(torch.device("cuda"))
    if name is None:
        return here
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # each backend has its own
        raise UsageError(
            f"--device {shown(name)}: not a device of this machine; expected one of "
            f"{', '.join(repr(str(device)) for device in here)}"
        ) from None
    return [device]


def dtypes(name: str | None) -> Sequence[torch.dtype]:
    """The dtype of that name, or the usual ones.

    Raises:
        UsageError: not a dtype that blocks take.
    """
    if name is None:
        return USUAL
    if name not in DTYPES:
        raise UsageError(f"--dtype {shown(name)}: expected one of {nearest(name, DTYPES)}")
    return [DTYPES[name]]


def found(named: Named, device: torch.device, dtype: torch.dtype) -> Found:
    """What runs this block there; the block is moved."""
    name, block = named
    block.to(device=device, dtype=dtype)
    x = torch.zeros(1, block.channels, 2, 2, device=device, dtype=dtype)
    kernel, reason = None, ""
    try:
        kernel, why = kernel_for(x, block.side)
        reason = FASTEST if why is None else why
    except UsageError as error:
        reason = KERNELS[chosen()].refuses(x, block.side) or str(error)
    return Found(
        block=name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        kernel=None if kernel is None else kernel.name,
        reason=reason,
    )


def advice(missing: dict[str, str | None], rows: Sequence[Found]) -> list[str]:
    """What to do, a line each, about kernels that are missing and blocks that are slow."""
    lines = []
    if missing["cpu"] is not None:
        lines.append(
            "for the kernel 'cpu': install a C compiler and reinstall coordcbam from source"
        )
    if missing["triton"] is not None and torch.cuda.is_available():
        lines.append("for the kernel 'triton': pip install triton")
    if chosen() != AUTO and any(row.kernel is None for row in rows):
        lines.append(f"for the blocks that would fail: unset {VARIABLE}, or set it to {AUTO!r}")
    if chosen() == AUTO and (called := [row.block for row in rows if row.kernel == "plain"]):
        lines.append(
            f"for a fast kernel in {', '.join(dict.fromkeys(called))}: take off the hooks, or put "
            "PyTorch's own layers back"
        )
    return lines
