"""``train``, ``demo`` and ``report``: what they hand over, print and leave."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock

pytest.importorskip("ultralytics")

import coordcbam as cc
from _support.offline import without_trackers
from coordcbam.data import DigitsConfig, digits
from coordcbam.hosts import ultralytics as host

PATHS = ["model.16.ccattn", "model.19.ccattn", "model.22.ccattn"]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Stands in for ``YOLO.train``: keeps the model and the arguments."""
    seen = SimpleNamespace(model=None, arguments=None)

    def train(self: Any, **arguments: Any) -> None:
        seen.model, seen.arguments = self, arguments
        self.trainer = SimpleNamespace(save_dir=tmp_path)

    monkeypatch.setattr(host.YOLO, "train", train)
    monkeypatch.setattr("coordcbam.cli.result.show_run", lambda *_: {})
    return seen


def test_other_words_reach_ultralytics_untouched(
    call: Callable[..., Any], training: SimpleNamespace, empty: Path
) -> None:
    words = "model=yolo11n.yaml data=digits epochs=3 imgsz=64 seed=7 lr0=0.01 cos_lr name=a=b"
    done = call("train", *words.split(), "freeze=[0,1]", "device=cpu", "--at", "P3")
    assert done.status == 0, done.err
    data = training.arguments.pop("data")
    assert Path(data).name == "data.yaml"
    assert Path(data).exists()
    assert training.arguments == {
        "epochs": 3,
        "imgsz": 64,
        "seed": 7,
        "lr0": 0.01,
        "cos_lr": True,
        "name": "a=b",
        "freeze": [0, 1],
        "device": "cpu",
    }
    assert [path for path, _ in cc.blocks(training.model.model)] == PATHS[:1]
    assert "model.16" in done.out
    assert "499/499 tensors kept" in done.out
    assert list(empty.iterdir()) == []


def test_words_and_flags_may_be_mixed(call: Callable[..., Any], training: SimpleNamespace) -> None:
    done = call(
        *("train", "detect", "train", "model=yolo11n.yaml", "--preset", "step1"),
        *("epochs=2", "--coord-beta", "0.5", "data=digits"),
    )
    assert done.status == 0, done.err
    assert training.arguments["epochs"] == 2
    found = cc.blocks(training.model.model)
    assert [path for path, _ in found] == PATHS
    wanted = cc.BlockConfig.step1().replace(coord_beta=0.5)
    assert {block.config for _, block in found} == {wanted}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Ours, with one block of its own options."""
    model = host.YOLO("yolo11n.yaml")
    model.insert("P3", cc.BlockConfig.from_notebook(beta_ca=0.6))
    model.save(tmp_path / "ours.pt")
    return tmp_path / "ours.pt"


def test_a_checkpoint_with_blocks_keeps_its_own(
    call: Callable[..., Any], training: SimpleNamespace, checkpoint: Path
) -> None:
    assert call("train", f"model={checkpoint}", "data=digits").status == 0
    ((path, block),) = cc.blocks(training.model.model)
    assert (path, block.config.channel.beta) == (PATHS[0], 0.6)


def test_more_places_are_added_to_a_checkpoint(
    call: Callable[..., Any], training: SimpleNamespace, checkpoint: Path
) -> None:
    assert call("train", f"model={checkpoint}", "data=digits", "--at", "P4").status == 0
    betas = [block.config.channel.beta for _, block in cc.blocks(training.model.model)]
    assert betas == [0.6, 0.35]


def test_a_place_that_a_checkpoint_has_already(
    call: Callable[..., Any], training: SimpleNamespace, checkpoint: Path
) -> None:
    done = call("train", f"model={checkpoint}", "data=digits", "--at", "P3")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert "already" in done.err
    assert training.model is None


def test_options_that_would_be_ignored_are_refused(
    call: Callable[..., Any], training: SimpleNamespace, checkpoint: Path
) -> None:
    """A checkpoint keeps its own blocks: --beta-ca would silently do nothing."""
    done = call("train", f"model={checkpoint}", "data=digits", "--beta-ca", "0.9")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1


@pytest.fixture
def unfinished(tmp_path: Path) -> Callable[[bool], Path]:
    """A last.pt as a run leaves it that was stopped in the middle, with a block or without."""

    def make(blocks: bool) -> Path:
        model = host.YOLO("yolo11n.yaml")
        if blocks:
            model.insert("P3")
        path = tmp_path / f"last-{blocks}.pt"
        model.ckpt = {**(model.ckpt or {}), "model": model.model}
        model.save(path)
        checkpoint = torch.load(path, weights_only=False)
        torch.save({**checkpoint, "epoch": 1, "optimizer": {"state": {}}}, path)
        return path

    return make


def test_resume_goes_on_with_the_file_that_is_named(
    call: Callable[..., Any], training: SimpleNamespace, unfinished: Callable[[bool], Path]
) -> None:
    path = unfinished(True)
    assert call("train", f"resume={path}").status == 0
    assert training.model.ckpt_path == str(path)
    assert [path for path, _ in cc.blocks(training.model.model)] == PATHS[:1]
    assert call("train", f"model={path}", "resume").status == 0


@pytest.mark.parametrize(
    ("blocks", "words", "told"),
    [
        (True, ["resume={}", "model=yolo11n.yaml"], "give one of them"),
        (True, ["resume=nowhere.pt"], "no such checkpoint"),
        (True, ["model={}", "resume=True", "--at", "P4"], "leave out --at"),
        (True, ["model={}", "resume=True", "--block", "timm:se"], "leave out --block"),
        (True, ["model={}", "resume=True", "--beta-ca", "0.5"], "leave out --beta-ca"),
        (False, ["model={}", "resume=True"], "has no block to go on with"),
    ],
)
def test_resume_that_would_do_something_else_is_refused(
    blocks: bool,
    words: list[str],
    told: str,
    call: Callable[..., Any],
    training: SimpleNamespace,
    unfinished: Callable[[bool], Path],
) -> None:
    path = unfinished(blocks)
    done = call("train", *(word.format(path) for word in words))
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert told in done.err
    assert training.model is None


def test_a_finished_training_is_not_resumed(
    call: Callable[..., Any], training: SimpleNamespace, checkpoint: Path
) -> None:
    done = call("train", f"model={checkpoint}", "resume=True")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "its training has ended or never began" in done.err


@pytest.mark.parametrize("name", ["model.onnx", "broken.pt", "broken.yaml"])
def test_a_file_that_is_no_model(
    name: str, call: Callable[..., Any], training: SimpleNamespace, tmp_path: Path, empty: Path
) -> None:
    (tmp_path / name).write_text("nothing: of the kind")
    done = call("train", f"model={tmp_path / name}", "data=digits")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert training.model is None
    assert list(empty.iterdir()) == []


def environment(folder: Path, cache: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return {
        **inherited,
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "YOLO_CONFIG_DIR": str(folder / "config"),
        "COORDCBAM_CACHE": str(cache),
        "COLUMNS": "100",
    }


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real ``train --json`` in a process of its own, shared by all workers."""
    base = tmp_path_factory.getbasetemp().parent
    folder = base / "cli"
    folder.mkdir(exist_ok=True)
    (folder / "config").mkdir(exist_ok=True)
    without_trackers(folder / "config")
    with FileLock(f"{folder}.lock"):
        if not (folder / "status").exists():
            data = digits(DigitsConfig(train=32, val=8), root=base / "digits")
            words = "epochs=1 imgsz=64 batch=8 device=cpu workers=0 plots=False seed=0 val=True"
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "coordcbam.cli.main", "train", "model=yolo11n.yaml"),
                    *(
                        f"data={data}",
                        *words.split(),
                        f"project={folder}",
                        "name=run",
                        "--at",
                        "P3,P4,P5",
                    ),
                    "--json",
                ],
                cwd=folder,
                env=environment(folder, base / "digits"),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            (folder / "stdout").write_text(done.stdout)
            (folder / "stderr").write_text(done.stderr)
            (folder / "status").write_text(str(done.returncode))
    return folder


def test_train_as_json(trained: Path) -> None:
    assert (trained / "status").read_text() == "0", (trained / "stderr").read_text()[-3000:]
    document = json.loads((trained / "stdout").read_text())
    assert set(document) == {"metrics", "blocks", "paths"}
    assert [row["block"] for row in document["blocks"]] == [
        p.removesuffix(".ccattn") for p in PATHS
    ]
    assert all(0.9 < row["r_out_pre"] < 1.1 for row in document["blocks"])
    assert set(document["metrics"]) >= {"mAP50", "mAP50-95"}
    assert set(document["paths"]) == {"report", "monitor", "run", "weights", "results"}
    assert all(Path(path).exists() for path in document["paths"].values())
    said = (trained / "stderr").read_text()
    assert "499/499 tensors kept" in said
    assert "Traceback" not in said


def test_a_block_that_is_not_watched_trains_to_the_end(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    data = digits(DigitsConfig(train=16, val=8), root=tmp_path / "digits")
    words = [
        "epochs=1",
        "imgsz=64",
        "batch=8",
        "device=cpu",
        "workers=0",
        "plots=False",
        "val=True",
    ]
    given = ("model=yolo11n.yaml", f"data={data}", *words, f"project={tmp_path}", "name=run")
    done = call("train", *given, "--block", "timm:cbam", "--json")
    assert done.status == 0, done
    document = json.loads(done.out)
    assert set(document["paths"]) == {"weights", "results"}
    assert all(Path(path).exists() for path in document["paths"].values())
    assert document["blocks"] == []
    assert set(document["metrics"]) == {"precision", "recall", "mAP50", "mAP50-95"}
    assert "no block was watched" in done.err
    beside = call("report", tmp_path / "run", tmp_path / "run", "-o", tmp_path / "both.html")
    assert beside.status == 0, beside


def test_report_is_rebuilt(trained: Path, call: Callable[..., Any], tmp_path: Path) -> None:
    save_dir = trained / "run"
    done = call("report", save_dir, "--out", tmp_path / "page.html", "--json")
    assert done.status == 0, done.err
    document = json.loads(done.out)
    assert document == {"report": str(tmp_path / "page.html"), "problems": []}
    assert "model.22" in (tmp_path / "page.html").read_text()
    shown = call("report", save_dir, "-o", tmp_path / "again.html")
    assert all(word in shown.out for word in ("model.16", "model.19", "model.22", "verdict"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
def test_demo(
    call: Callable[..., Any],
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The whole of it in small: data, network, training with a bar, table, paths."""
    small = DigitsConfig(train=16, val=8)
    root = tmp_path_factory.getbasetemp().parent / "digits"
    monkeypatch.setattr("coordcbam.data.digits", lambda: digits(small, root=root))
    demo = importlib.import_module("coordcbam.cli.demo")
    monkeypatch.setattr(demo, "EPOCHS", 1)
    done = call("demo", "--preset", "step1", "--seed", 3)
    assert done.status == 0, done.err
    assert "499/499 tensors kept" in done.out
    for word in ("model.16", "r_block", "r_out_pre", "r_ema", "alpha", "alpha_eff", "verdict"):
        assert word in done.out
    for word in ("mAP50 0", "mAP50-95 0", "report:", "done in"):
        assert word in done.out
    assert "epoch 1/1, mAP50" in done.out
    run = empty / "runs" / "coordcbam" / "demo-step1"
    assert (run / "coordcbam" / "report.html").exists()
    info = json.loads((run / "coordcbam" / "run.json").read_text())
    assert (info["status"], info["config"]["preset"]) == ("finished", "step1")
    assert sorted(path.name for path in empty.iterdir()) == ["runs"]
