"""``check --export`` on trained weights: an export with its blocks, and one that has lost them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

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


def export(weights: Path, form: str, *, bare: bool, **more: Any) -> Path:
    model = YOLO(weights)
    arguments = {"format": form, "imgsz": 128, "device": "cpu", "verbose": False, **more}
    if form == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
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
    file = export(weights, form, bare=bare)
    capfd.readouterr()
    images = [word for path in pictures[:2] for word in ("--image", str(path))]
    status = main(["check", str(weights), "--export", str(file), *images, "--json"])
    found = [f["what"] for f in json.loads(_last_line(capfd))["findings"]]
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


def checked(capfd: Any, *words: object) -> tuple[int, dict[str, Any], list[str]]:
    """The status, the document and what was found, notes left out."""
    capfd.readouterr()
    status = main(["check", *map(str, words), "--json"])
    document = json.loads(_last_line(capfd))
    return status, document, [f["what"] for f in document["findings"]]


FORMS = {
    "a fixed batch": ("onnx", {"batch": 3}),
    "no square": ("onnx", {"imgsz": [96, 128]}),
    "any size": ("onnx", {"dynamic": True}),
    "no square, scripted": ("torchscript", {"imgsz": [96, 128], "batch": 2}),
}


@pytest.mark.parametrize("kind", FORMS)
def test_exports_of_other_sizes_and_batches(
    kind: str, weights: Path, pictures: list[Path], capfd: Any
) -> None:
    form, arguments = FORMS[kind]
    file = export(weights, form, bare=False, **arguments)
    words = (weights, "--export", file, "--image", pictures[0])
    status, document, found = checked(capfd, *words)
    assert (status, found) == (0, [])
    near, far, other = document["distances"].values()
    tolerance = document["tolerance"]
    assert near["score"] <= tolerance["score"] < 0.01 * far["score"]
    assert other["score"] > 0.9 * far["score"]


@pytest.mark.parametrize("bare", [False, True])
def test_half_precision_has_a_tolerance_of_its_own(
    bare: bool, weights: Path, pictures: list[Path], capfd: Any
) -> None:
    file = export(weights, "onnx", bare=bare, half=True)
    words = (weights, "--export", file, "--image", pictures[0])
    status, document, found = checked(capfd, *words)
    if "float16" not in document["tolerance"]["for"]:
        pytest.skip("this Ultralytics exports no float16 on a CPU")
    assert (status, found) == ((1, ["the export has lost its blocks"]) if bare else (0, []))


def test_an_export_of_other_weights_differs(
    weights: Path, pictures: list[Path], capfd: Any
) -> None:
    file = export(weights, "torchscript", bare=False)
    model = YOLO(weights)
    for name, parameter in model.model.named_parameters():
        if name.startswith("model.0."):
            parameter.data.mul_(1.02)
    model.save(weights)
    status, _, found = checked(capfd, weights, "--export", file, "--image", pictures[0])
    assert (status, found) == (1, ["the export differs"])


def test_without_images_it_takes_its_own(
    weights: Path, trained_data: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordcbam.data.digits", lambda: trained_data)
    file = export(weights, "torchscript", bare=True)
    status, _, found = checked(capfd, weights, "--export", file)
    assert (status, found) == (1, ["the export has lost its blocks"])


def test_a_trained_run_and_its_weights_are_clean(trained: Path, capfd: Any) -> None:
    for target in (trained, trained / "coordcbam", trained / "weights" / "best.pt"):
        status, document, found = checked(capfd, target)
        assert (status, found, document["blocks"]) == (0, [], 3)
        assert {note["what"] for note in document["notes"]} == {"the rescue cannot fire"}


def test_a_hook_that_is_gone_from_trained_weights(weights: Path, capfd: Any) -> None:
    held = torch.load(weights, weights_only=False)
    network = held["ema"] or held["model"]
    network.get_submodule("model.19")._forward_hooks.clear()
    torch.save(held, weights)
    status, document, found = checked(capfd, weights)
    assert (status, found) == (1, ["the block never runs"])
    assert [f["where"] for f in document["findings"]] == ["model.19"]


def test_a_block_that_is_gone_from_trained_weights(weights: Path, capfd: Any) -> None:
    held = torch.load(weights, weights_only=False)
    layer = (held["ema"] or held["model"]).get_submodule("model.19")
    layer._forward_hooks.clear()
    del layer.ccattn
    torch.save(held, weights)
    assert checked(capfd, weights)[::2] == (1, ["the block is lost"])


def test_model_files(tmp_path: Path, capfd: Any) -> None:
    from coordcbam.hosts.ultralytics import write_model

    good, bad = tmp_path / "yolo11n-blocks.yaml", tmp_path / "yolo11n-typo.yaml"
    write_model(YOLO("yolo11n.yaml"), good)
    status, document, found = checked(capfd, good)
    assert (status, found, document["blocks"]) == (0, [], 3)
    for wrong in ("CoordCBAM", "CordLayer"):
        bad.write_text(good.read_text().replace("CoordCBAMLayer", wrong))
        status, document, found = checked(capfd, bad)
        assert (status, found) == (1, ["a name is not registered"])
        assert wrong in document["findings"][0]["measured"]
    bad.write_text("nc: [")
    assert main(["check", str(bad)]) == 2


@pytest.fixture
def with_two_heads(batch: torch.Tensor, tmp_path: Path) -> Path:
    """A detector that gives maps or rows, whose maps are not all alike although it is not trained."""
    torch.manual_seed(0)
    model = YOLO("yolov10n.yaml")
    model.insert("P3,P4,P5", cc.BlockConfig.step2())
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.model.train()(batch)
    model.save(tmp_path / "rows.pt")
    return tmp_path / "rows.pt"


@pytest.mark.parametrize("rows", [False, True])
def test_a_detector_with_two_heads(
    rows: bool, with_two_heads: Path, pictures: list[Path], capfd: Any
) -> None:
    more = {"nms": False} if rows else {}
    for bare in (False, True):
        file = export(with_two_heads, "torchscript", bare=bare, **more)
        words = (with_two_heads, "--export", file, "--image", pictures[0])
        assert checked(capfd, *words)[::2] == (
            (1, ["the export has lost its blocks"]) if bare else (0, [])
        )
