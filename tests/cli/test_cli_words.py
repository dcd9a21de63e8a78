"""``val``, ``predict`` and ``export``: the model runs with its blocks, and its words are checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ultralytics")

import coordcbam as cc
from coordcbam.data import DigitsConfig, digits
from coordcbam.hosts import ultralytics as host

pytestmark = [  # torch.jit, in Ultralytics' own export
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

VERBS = ("val", "predict", "export")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights with blocks that change the signal and without."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = host.YOLO("yolo11n.yaml")
    model.model.train()
    with torch.no_grad():  # statistics that let a signal reach the head
        for _ in range(30):
            model.model(torch.rand(4, 3, 64, 64))
    model.save(folder / "without.pt")
    model.insert("P3,P4,P5", cc.BlockConfig.step1())
    model.save(folder / "with.pt")
    return {name: folder / f"{name}.pt" for name in ("with", "without")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits(DigitsConfig(train=4, val=4), root=tmp_path_factory.mktemp("digits"))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that blocks are called with, in any copy of a network."""
    shapes: list[torch.Size] = []
    forward = cc.CoordCBAM.forward

    def counted(self: cc.CoordCBAM, x: torch.Tensor) -> torch.Tensor:
        shapes.append(x.shape)
        return forward(self, x)

    monkeypatch.setattr(cc.CoordCBAM, "forward", counted)
    return shapes


def test_predict_runs_the_blocks(
    call: Callable[..., Any],
    models: dict[str, Path],
    data: Path,
    empty: Path,
    called: list[torch.Size],
) -> None:
    folder = data.parent / "images" / "val"
    words = (f"source={folder}", "imgsz=64", "conf=0.0", "max_det=3", "device=cpu")
    done = call("predict", f"model={models['with']}", *words, f"project={empty}", "--json")
    assert done.status == 0, done.err
    document = json.loads(done.out)
    assert [Path(one["file"]).parent for one in document["pictures"]] == [folder] * 4
    assert [len(one["found"]) for one in document["pictures"]] == [3] * 4
    assert len(list(Path(document["folder"]).glob("*.jpg"))) == 4
    assert len(called) >= 3 * 4


def test_val_runs_the_blocks(
    call: Callable[..., Any],
    models: dict[str, Path],
    data: Path,
    empty: Path,
    called: list[torch.Size],
) -> None:
    words = (f"data={data}", "imgsz=64", "batch=4", "device=cpu", "plots=False", "workers=0")
    done = call("val", f"model={models['with']}", *words, f"project={empty}", "--json")
    assert done.status == 0, done.err
    document = json.loads(done.out)
    assert document["metrics"]["metrics/mAP50(B)"] >= 0.0
    assert Path(document["folder"]).parent == empty
    assert len(called) >= 3


def test_export_holds_the_blocks(
    call: Callable[..., Any], models: dict[str, Path], tmp_path: Path, empty: Path
) -> None:
    picture = torch.rand(1, 3, 64, 64)
    made = {}
    for name, path in models.items():
        done = call("export", f"model={path}", "format=torchscript", "imgsz=64", "device=cpu")
        assert done.status == 0, done.err
        file = path.with_suffix(".torchscript")
        assert f"coordcbam check {path} --export {file}" in done.out.replace("\n", " ")
        made[name] = torch.jit.load(file)(picture)
    network = host.YOLO(models["with"]).model.eval()
    with torch.no_grad():
        wanted = network(picture)[0]
    torch.testing.assert_close(made["with"], wanted, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(made["without"], wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("verb", VERBS)
def test_no_model(verb: str, call: Callable[..., Any], empty: Path) -> None:
    done = call(verb, "imgsz=64")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "no model: give model=" in done.err


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_word(
    verb: str, call: Callable[..., Any], models: dict[str, Path], empty: Path
) -> None:
    done = call(verb, f"model={models['with']}", "source=a.png", "imgsze=64")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "imgsz" in done.err
    assert list(empty.iterdir()) == []


def test_predict_without_pictures(
    call: Callable[..., Any], models: dict[str, Path], empty: Path
) -> None:
    done = call("predict", f"model={models['with']}")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "source=" in done.err
    missing = call("predict", f"model={models['with']}", "source=nowhere.png")
    assert (missing.status, len(missing.err.splitlines())) == (2, 1)
    assert "nowhere.png" in missing.err


def test_an_export_is_a_model_to_predict_with(
    call: Callable[..., Any], models: dict[str, Path], data: Path, empty: Path
) -> None:
    folder = data.parent / "images" / "val"
    words = (f"source={folder}", "imgsz=64", "conf=0.0", "max_det=3", "device=cpu", "save=False")
    assert call("export", f"model={models['with']}", "format=torchscript", "imgsz=64").status == 0
    boxes = []
    for model in (models["with"].with_suffix(".torchscript"), models["with"]):
        done = call("predict", f"model={model}", *words, "--json")
        assert done.status == 0, done.err
        found = [one["box"] for p in json.loads(done.out)["pictures"] for one in p["found"]]
        boxes.append([value for box in found for value in box.values()])
    assert boxes[0] == pytest.approx(boxes[1], abs=0.1)


@pytest.mark.parametrize(
    ("verb", "words", "named"),
    [
        ("val", "imgsz=abc", "imgsz='abc': expected a number of pixels"),
        ("predict", "imgsz=[64,'a'] source=a.jpg", "expected a number of pixels"),
        ("export", "format=zzz", "Invalid export format='zzz'."),
        ("export", "format=onx2 dynamic=yes", "dynamic"),
        ("export", "format=torchscript opset=17", "'opset' is not supported for format='torch"),
        ("export", "format=torchscript half=maybe int9=True", "unknown word 'int9=True': nearest"),
        ("train", "data=coco8.yaml pretrained=nope.pt", "no weights file 'nope.pt': nearest are"),
        ("train", "data=coco8.yaml project=a.txt", "a.txt (Not a directory): choose another"),
        ("val", "project=a.txt/b", "a.txt"),
        ("val", "data=digit", "no data set 'digit'; did you mean 'digits'?"),
    ],
)
def test_a_bad_value_is_one_line_and_status_2(
    verb: str,
    words: str,
    named: str,
    call: Callable[..., Any],
    models: dict[str, Path],
    empty: Path,
) -> None:
    Path("a.txt").write_text("no folder")
    words = words.replace("a.txt", str(empty / "a.txt"))
    done = call(verb, f"model={models['with']}", *words.split(), "device=cpu")
    said = done.err.splitlines()[-1:]
    assert done.status == 2, done.err
    assert named in said[0]
    assert said[0].count(",") < 12
    assert [path.name for path in empty.iterdir()] == ["a.txt"]


def test_a_file_beside_the_one_that_is_not_there_is_suggested(
    call: Callable[..., Any], models: dict[str, Path], empty: Path
) -> None:
    done = call("val", f"model={models['with'].with_name('wiht.pt')}", "data=digits")
    assert (done.status, f"nearest are '{models['with']}'" in done.err) == (2, True), done.err


def test_an_export_needs_a_folder_that_can_be_written(
    call: Callable[..., Any], models: dict[str, Path], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, dir: Path, **__: Any) -> Any:  # noqa: A002
        raise OSError(30, "Read-only file system", str(dir))

    monkeypatch.setattr(host.tempfile, "TemporaryDirectory", full)
    done = call("export", f"model={models['with']}", "format=torchscript")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert f"{models['with'].parent} (Read-only file system): choose another" in done.err


@pytest.mark.parametrize(
    ("words", "precision"),
    [("half=True", 16), ("half", 16), ("int8=True", 8), ("int8=False", None)],
)
def test_words_of_earlier_releases_mean_what_they_do_there(
    words: str, precision: int | None, models: dict[str, Path]
) -> None:
    _, arguments = host.prepare([f"model={models['with']}", words], "export")
    if "quantize" in host.DEFAULT_CFG_DICT:
        assert arguments == {"quantize": precision}
    else:  # releases before the two became one
        assert set(arguments) <= {"half", "int8"}


def test_suggested_commands_can_be_pasted(
    call: Callable[..., Any], models: dict[str, Path], empty: Path
) -> None:
    spaced = empty / "my model.pt"
    spaced.write_bytes(models["with"].read_bytes())
    done = call("export", "model=my model.pt", "format=torchscript", "imgsz=32", "device=cpu")
    assert done.status == 0, done.err
    told = " ".join(done.out.split())
    assert "coordcbam check 'my model.pt' --export '" in told.replace(f"{empty}/", "")
    done = call("export", "model=yolo11n.yaml", "format=torchscript", "imgsz=32", "device=cpu")
    assert done.status == 0, done.err
    assert "None" not in done.out.splitlines()[-1]
    assert "so no checkpoint can be compared" in done.out
    done = call("insert", "yolo11n.yaml", "-o", "with blocks.yaml")
    assert "coordcbam train 'model=with blocks.yaml' data=" in done.out
