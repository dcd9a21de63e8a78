"""``coordcbam insert``: files that are there and right, or one line and nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ultralytics")

from coordcbam._support.errors import UsageError
from coordcbam.cli.main import main
from coordcbam.hosts.ultralytics import YOLO, write_model
from coordcbam.insert import attached


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_file(inside: Path, capsys: Any) -> None:
    assert main(["insert", "yolo11s.yaml", "--at", "P3,P5", "-o", "yolo11s-cc.yaml"]) == 0
    said = capsys.readouterr().out
    assert "model.16" in said
    assert "coordcbam train model=yolo11s-cc.yaml data=... pretrained=yolo11s.pt" in said
    assert attached(YOLO("yolo11s-cc.yaml").model) == ["model.17", "model.24"]
    assert "CoordCBAMLayer, [ch, f, {preset: step3}]" in Path("yolo11s-cc.yaml").read_text()


def test_a_checkpoint_names_itself_as_the_weights(inside: Path, capsys: Any) -> None:
    (inside / "runs").mkdir()
    YOLO("yolo11n.yaml").save(inside / "runs" / "best.pt")
    assert main(["insert", "runs/best.pt", "-o", "yolo11n-cc.yaml"]) == 0
    assert "pretrained=runs/best.pt" in capsys.readouterr().out


def test_a_checkpoint(call: Any) -> None:
    words = ["yolo11n.yaml", "--at", "P4", "-o", "with.pt", "--preset", "step2", "--json"]
    done = call("insert", *words)
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["kept"] == "499/499"
    assert [place["path"] for place in told["places"]] == ["model.19"]
    assert attached(YOLO("with.pt").model) == ["model.19"]
    assert YOLO("with.pt").model.model[19].ccattn.config.name == "step2"


def test_another_block_with_options_and_a_guard() -> None:
    pytest.importorskip("timm")
    words = ["--block", "timm:se", "--block-options", '{"rd_ratio": 0.5}', "--guard", "0.8"]
    assert main(["insert", "yolo11n.yaml", "--at", "P4", "-o", "yolo11n-se.yaml", *words]) == 0
    layer = YOLO("yolo11n-se.yaml").model.model[20].ccattn
    assert (type(layer.inner).__name__, layer.inner.rescue.r_min) == ("Guard", 0.8)
    assert type(layer.inner.inner).__name__ == "SEModule"


def test_ultralytics_own_block_that_its_files_cannot_name() -> None:
    assert main(["insert", "yolo11n.yaml", "-o", "a.pt", "--block", "ultralytics:CBAM"]) == 0
    assert type(YOLO("a.pt").model.model[16].ccattn.inner).__name__ == "CBAM"


def test_an_existing_file_is_kept_unless_told(inside: Path, capsys: Any) -> None:
    out = inside / "yolo11n-cc.yaml"
    out.write_text("mine")
    assert main(["insert", "yolo11n.yaml", "-o", str(out)]) == 2
    assert "it is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["insert", "yolo11n.yaml", "-o", str(out), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["yolo11nn.yaml", "-o", "a.yaml"], "no model file 'yolo11nn.yaml': nearest are"),
        (["yolo11n.yaml", "-o", "a.onnx"], "ends with .yaml or .pt"),
        (["yolo11n.yaml", "-o", "no/a.yaml"], "no folder no"),
        (["yolo11n.yaml", "-o", "yolo11s.yaml"], "reads scale 's' in this name"),
        (["yolo11n.yaml", "-o", "a.yaml", "--at", "P7"], "no place 'P7'"),
        (["yolo11n.yaml", "-o", "a.pt", "--at", "P7"], "no place 'P7'"),
        (["yolo11n.yaml", "-o", "a.pt", "--no-redirect"], "--no-redirect is for model files"),
        (["yolo11n.yaml", "-o", "a.yaml", "--no-redirect", "--at", "P5,4"], None),
        (["yolo11n.yaml", "-o", "a.yaml", "--block", "cbam"], "expected 'timm:NAME'"),
        (["yolo11n.yaml", "-o", "a.yaml", "--block", "timm:nope"], "no block 'timm:nope': nearest"),
        (
            ["yolo11n.yaml", "-o", "a.yaml", "--block", "timm:se", "--preset", "step2"],
            "has no --pre",
        ),
        (["yolo11n.yaml", "-o", "a.yaml", "--guard", "0.9"], "--guard is for another block"),
        (
            ["yolo11n.yaml", "-o", "a.yaml", "--block", "timm:se", "--block-options", "3"],
            "JSON obj",
        ),
        (["yolo11n.yaml", "-o", "a.yaml", "--block", "timm:se", "--guard", "2"], "r_min"),
    ],
)
def test_one_line_and_nothing_written(
    words: list[str], text: str | None, inside: Path, capsys: Any
) -> None:
    if text is None:
        assert main(["insert", *words]) == 0
        return
    assert main(["insert", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert text in said
    assert "\n" not in said
    assert list(inside.iterdir()) == []


def test_a_folder_that_may_not_be_written(
    inside: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("coordcbam.hosts.yolo.modelfile.write_atomically", refused)
    assert main(["insert", "yolo11n.yaml", "-o", "a.yaml"]) == 2
    assert "a.yaml cannot be written: Permission denied" in capsys.readouterr().err
    monkeypatch.setattr("coordcbam.hosts.ultralytics.YOLO.save", refused)
    assert main(["insert", "yolo11n.yaml", "-o", "a.pt"]) == 2
    assert "a.pt cannot be written" in capsys.readouterr().err
    assert list(inside.iterdir()) == []


def test_a_name_that_ultralytics_reads_as_another_files(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As releases did whose reader takes the file of all scales first."""
    model, out = YOLO("yolo11n.yaml"), inside / "yolo11n-cc.yaml"
    other = {"backbone": [], "head": []}
    monkeypatch.setattr("coordcbam.hosts.ultralytics.tasks.yaml_model_load", lambda _: other)
    for before in (None, "mine"):
        if before is not None:
            out.write_text(before)
        with pytest.raises(UsageError, match="reads another file by this name"):
            write_model(model, out, "P3")
        assert (out.read_text() if out.exists() else None) == before
