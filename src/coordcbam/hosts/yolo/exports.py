"""Running an exported detector, without Ultralytics: ONNX and TorchScript."""

import ast
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require

Array = np.ndarray[Any, Any]
FORMATS = (".onnx", ".torchscript")
INPUTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Export(NamedTuple):
    """An export that can be run."""

    run: Callable[[Array], Array]  # one image (1, 3, H, W) in [0, 1] to (1, ...), in float32
    size: tuple[int, int] | None  # of its images, H and W; None where the file does not say
    words: str  # what it is, such as "ONNX, float16"
    half: bool


def exported(file: Path) -> Export:
    """The export in a file, ready to run.

    Raises:
        UsageError: no such file, or one that is not read here.
        MissingExtraError: its runtime is not installed.
    """
    if file.suffix not in FORMATS:
        raise UsageError(f"--export {file}: expected a file ending in {' or '.join(FORMATS)}")
    if not file.is_file():
        raise UsageError(f"--export {file}: no such file")
    try:
        return _onnx(file) if file.suffix == ".onnx" else _torchscript(file)
    except UsageError:
        raise
    except Exception as error:  # a runtime has errors of its own
        raise UsageError(f"--export {file}: cannot be read ({_line(error)})") from None


def _onnx(file: Path) -> Export:
    require("onnxruntime", for_what="running an ONNX file")
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    if entry.type not in INPUTS or len(entry.shape) != 4:
        raise UsageError(f"--export {file}: takes {entry.type} {entry.shape}; expected images")
    told: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    arguments = ast.literal_eval(told.get("args", "{}"))
    half = entry.type == "tensor(float16)" or _is_half(arguments)
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 1
    fixed = [side for side in entry.shape[2:] if isinstance(side, int)]
    sides = fixed if len(fixed) == 2 else ast.literal_eval(told.get("imgsz", "[]"))

    def run(x: Array) -> Array:
        given = np.repeat(x, batch, axis=0).astype(INPUTS[entry.type])
        out: Array = session.run(None, {entry.name: given})[0]
        return out[:1].astype(np.float32)

    return Export(_told(run, file), _size(sides), f"ONNX, {_dtype(half=half)}", half)


def _torchscript(file: Path) -> Export:
    extra = {"config.txt": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch wants to retire the format
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(file), "cpu", extra)  # type: ignore[no-untyped-call]
    told = json.loads(extra["config.txt"] or "{}")
    half = any(value.dtype == torch.float16 for value in module.parameters())
    batch = int(told.get("batch") or 1)

    def run(x: Array) -> Array:
        given = torch.from_numpy(np.repeat(x, batch, axis=0))
        with torch.no_grad():
            out = module(given.half() if half else given)
        found: Array = (out[0] if isinstance(out, (list, tuple)) else out)[:1].float().numpy()
        return found

    size = _size(told.get("imgsz") or [])
    return Export(_told(run, file), size, f"TorchScript, {_dtype(half=half)}", half)


def _told(run: Callable[[Array], Array], file: Path) -> Callable[[Array], Array]:
    """``run``, whose failures are one line."""

    def runs(x: Array) -> Array:
        try:
            return run(x)
        except Exception as error:
            size = "x".join(map(str, x.shape[2:]))
            raise UsageError(
                f"--export {file}: does not run on {size} pixels ({_line(error)})"
            ) from None

    return runs


def _is_half(arguments: Mapping[str, Any]) -> bool:
    """By what Ultralytics notes of an export's arguments."""
    return bool(arguments.get("half")) or arguments.get("quantize") == 16


def _dtype(*, half: bool) -> str:
    return "float16" if half else "float32"


def _size(sides: Any) -> tuple[int, int] | None:
    """Height and width, of two sides or of one for both.

    >>> _size([96, 128]), _size(128), _size([])
    ((96, 128), (128, 128), None)
    """
    sides = [sides] if isinstance(sides, int) else list(sides)
    return (int(sides[0]), int(sides[-1])) if sides else None


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TorchScript's traceback has the reason last, ONNX Runtime's message first.
    line = lines[-1] if lines and "Traceback" in str(error) else next(iter(lines), "")
    return (line or type(error).__name__)[:100]
