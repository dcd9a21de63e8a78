"""``preflight``: tables, a document and a file, and mistakes in one line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ultralytics")

from coordcbam.data import DigitsConfig, digits
from coordcbam.hosts import ultralytics as host


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("preflight") / "plain.pt"
    host.YOLO("yolo11n.yaml").save(file)
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits(DigitsConfig(train=2, val=4), root=tmp_path_factory.mktemp("digits"))


@pytest.fixture
def words(weights: Path, data: Path) -> list[str]:
    return [f"model={weights}", f"data={data}", "imgsz=64", "device=cpu", "--seeds", "1"]


def test_a_preflight(call: Callable[..., Any], words: list[str], empty: Path) -> None:
    given = ("--at", "P3,P5", "--blocks", "none,step3,step1", "--images", "3", "-o", "found")
    done = call("preflight", *words, *given, "--json")
    assert done.status == 0, done.err
    document = json.loads(done.out)
    assert document["about"]["task"] == "detect"
    assert document["about"]["images"] == 3
    assert document["about"]["imgsz"] == 64
    assert document["about"]["score"] == "mAP50-95(B)"
    assert [row["block"] for row in document["rows"]] == ["none", "step3", "step1"]
    assert [place["path"] for place in document["about"]["places"]] == ["model.16", "model.22"]
    none, step3, step1 = document["rows"]
    assert none["shock"]["mean"] == step3["shock"]["mean"] == 0.0
    assert step3["drift"]["mean"] == 0.0 < step1["drift"]["mean"]
    assert 0.2 < step1["places"][0]["kept"]["mean"] < 0.9
    assert {path.name for path in empty.iterdir()} == {"found"}
    assert json.loads((empty / "found" / "preflight.json").read_text(encoding="utf-8")) == document
    assert "The signal at model.16, model.22" in done.err
    assert document["verdict"].split(":")[0] in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--blocks", "step4"], "no block 'step4': nearest are"),
        (["--blocks", "timm:no_such"], "timm:no_such"),
        (["--blocks", "ultralytics:CBAN"], "nearest are 'CBAM'"),
        (["--at", "P9"], "no place 'P9'"),
        (["--seeds", "0"], "--seeds 0"),
        (["--images", "0"], "--images 0"),
        (["-o", "file"], "--out file"),
        (["-o", "/proc/nowhere"], "nothing can be written to /proc/nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    call: Callable[..., Any], words: list[str], empty: Path, given: list[str], named: str
) -> None:
    (empty / "file").touch()
    done = call("preflight", *words, *given)
    assert done.status == 2
    assert named in done.err
    assert done.err.count("\n") == 1


def test_without_a_model_or_data(call: Callable[..., Any], weights: Path, empty: Path) -> None:
    for given, named in (
        ([f"model={weights}"], "no data: give data="),
        (["data=digits"], "no model: give model="),
        ([f"model={weights}", "data=nowhere.yaml"], "nowhere.yaml"),
    ):
        done = call("preflight", *given)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert named in done.err


def test_what_is_not_installed_is_said(
    call: Callable[..., Any], words: list[str], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    done = call("preflight", *words, "--blocks", "timm:cbam")
    assert done.status == 2
    assert "needs timm: pip install timm" in done.err
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = call("preflight", *words)
    assert done.status == 2
    assert "needs 'ultralytics'" in done.err


def test_a_language_without_a_page_is_told_before_anything_runs(call: Callable[..., Any]) -> None:
    done = call("preflight", "model=yolo11n.yaml", "data=digits", "--lang", "tr")
    assert done.status == 2
    assert "--lang tr is for the page" in done.err


def test_a_bare_path_is_told_its_key(call: Callable[..., Any]) -> None:
    done = call("preflight", "best.pt", "data=coco8.yaml")
    assert done.status == 2
    assert "expected model=best.pt" in done.err
