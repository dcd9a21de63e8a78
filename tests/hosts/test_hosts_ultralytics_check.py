"""``check --export`` on trained weights: an export with its blocks, and one that has lost them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import coordcbam as cc
from coordcbam.cli.main import main
from coordcbam.hosts.ultralytics import YOLO

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture
def weights(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained / "weights" / "best.pt", tmp_path / "best.pt"))


def _last_line(capfd: Any) -> str:
    """The JSON: pytest has the tables on the same stream."""
    return str(capfd.readouterr().out.strip().splitlines()[-1])


def export(weights: Path, form: str, *, bare: bool) -> Path:
    model = YOLO(weights)
    arguments: dict[str, Any] = {"format": form, "imgsz": 128, "device": "cpu", "verbose": False}
    if form == "onnx":
        arguments["simplify"] = False
    if not bare:
        return Path(model.export(**arguments))
    with cc.bypass(model.model):
        return Path(model.export(**arguments))


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_dropped_block_is_found(
    form: str, bare: bool, weights: Path, pictures: list[Path], capfd: Any
) -> None:
    if form == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    file = export(weights, form, bare=bare)
    capfd.readouterr()
    images = [word for path in pictures[:2] for word in ("--image", str(path))]
    status = main(["check", str(weights), "--export", str(file), *images, "--json"])
    found = [f["what"] for f in json.loads(_last_line(capfd))["findings"] if not f["note"]]
    assert (status, found) == ((1, ["the export has lost its blocks"]) if bare else (0, []))


def test_blocks_that_do_too_little_cannot_be_told(
    weights: Path, pictures: list[Path], capfd: Any
) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")  # a fresh one is the identity
    fresh = weights.with_name("fresh.pt")
    model.save(fresh)
    file = export(fresh, "torchscript", bare=False)
    status = main(["check", str(fresh), "--export", str(file), "--image", str(pictures[0])])
    assert status == 1
    assert "cannot tell" in capfd.readouterr().out


def test_an_image_that_is_none(weights: Path, capfd: Any) -> None:
    file = export(weights, "torchscript", bare=False)
    text = weights.with_name("a.png")
    text.write_text("no image")
    capfd.readouterr()
    assert main(["check", str(weights), "--export", str(file), "--image", str(text)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "not a readable image" in line
