"""Running an exported detector, without Ultralytics: ONNX and TorchScript."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require

Runs = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
FORMATS = (".onnx", ".torchscript")


def exported(file: Path) -> tuple[Runs, int]:
    """What runs one image (1, 3, S, S) in [0, 1] through an export, and its side S.

    Raises:
        UsageError: no such file, or a format that is not read here.
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
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise UsageError(f"--export {file}: cannot be read ({text})") from None


def _onnx(file: Path) -> tuple[Runs, int]:
    require("onnxruntime", for_what="running an ONNX file")
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    if entry.type != "tensor(float)":
        raise UsageError(f"--export {file}: takes {entry.type}; only float32 exports are compared")
    told = session.get_modelmeta().custom_metadata_map.get("imgsz", "[640, 640]")
    side = entry.shape[2] if isinstance(entry.shape[2], int) else json.loads(told)[0]

    def run(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out: np.ndarray[Any, Any] = session.run(None, {entry.name: x})[0]
        return out

    return run, int(side)


def _torchscript(file: Path) -> tuple[Runs, int]:
    extra = {"config.txt": ""}
    module = torch.jit.load(str(file), _extra_files=extra)  # type: ignore[no-untyped-call]
    side = json.loads(extra["config.txt"] or "{}").get("imgsz", [640])[0]

    def run(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            out = module(torch.from_numpy(x))
        found: np.ndarray[Any, Any] = (out[0] if isinstance(out, (list, tuple)) else out).numpy()
        return found

    return run, int(side)
