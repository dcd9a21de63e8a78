"""Exports contain the blocks: on trained weights, next to the bypassed network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coordcbam as cc

# Ultralytics exports by tracing, which PyTorch wants to retire.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

TOLERANCE = {"box": 5e-3, "score": 5e-5}


def apart(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    difference = np.abs(a - b)
    return {"box": float(difference[:, :4].max()), "score": float(difference[:, 4:].max())}


@pytest.fixture
def wanted(best: Any, batch: torch.Tensor) -> np.ndarray:
    """Torch's outputs; the bypassed network's are at least 100 tolerances away."""
    network = best.model.float().eval()
    with torch.no_grad():
        full = network(batch)[0].numpy()
        with cc.bypass(network):
            bare = network(batch)[0].numpy()
    far = apart(full, bare)
    assert all(far[name] >= 100 * TOLERANCE[name] for name in far), far
    return full


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    near = apart(a, b)
    assert all(near[name] <= TOLERANCE[name] for name in near), near


@pytest.fixture
def exported(best: Any, tmp_path: Path) -> Any:
    """``exported(format=...)`` writes below ``tmp_path`` and gives the file."""
    best.save(tmp_path / "model.pt")

    def export(**arguments: Any) -> Path:
        from coordcbam.hosts.ultralytics import YOLO

        model = YOLO(tmp_path / "model.pt")
        return Path(model.export(imgsz=128, device="cpu", verbose=False, **arguments))

    return export


def test_onnx(exported: Any, wanted: np.ndarray, batch: torch.Tensor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = exported(format="onnx", opset=17, simplify=False, batch=len(batch))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    assert_same(out, wanted)


def test_onnx_with_a_size_it_was_not_traced_at(
    best: Any, exported: Any, wanted: np.ndarray, batch: torch.Tensor
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = exported(format="onnx", opset=17, simplify=False, dynamic=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    small = batch[:2, :, :96, :64].contiguous()
    with torch.no_grad():
        full = best.model(small)[0].numpy()
    (out,) = session.run(None, {session.get_inputs()[0].name: small.numpy()})
    assert_same(out, full)


def test_torchscript(exported: Any, wanted: np.ndarray, batch: torch.Tensor) -> None:
    path = exported(format="torchscript", batch=len(batch))
    with torch.no_grad():
        out = torch.jit.load(str(path))(batch)
    out = out[0] if isinstance(out, (list, tuple)) else out
    assert_same(out.numpy(), wanted)


def test_export_of_a_bypassed_model_is_the_model_without_blocks(
    best: Any, tmp_path: Path, wanted: np.ndarray, batch: torch.Tensor
) -> None:
    """The control of the control: an export can be without blocks, and then it shows."""
    best.save(tmp_path / "model.pt")
    with cc.bypass(best.model):
        path = best.export(format="torchscript", imgsz=128, batch=len(batch), device="cpu")
    with torch.no_grad():
        out = torch.jit.load(str(path))(batch)
    far = apart(out.numpy(), wanted)
    assert all(far[name] >= 100 * TOLERANCE[name] for name in far), far


def test_an_export_has_the_inference_form(exported: Any, batch: torch.Tensor) -> None:
    path = exported(format="torchscript", batch=len(batch))
    names = [m.original_name for m in torch.jit.load(str(path)).modules()]
    assert names.count("DeployedCBAM") == 3
    assert "CoordCBAM" not in names
