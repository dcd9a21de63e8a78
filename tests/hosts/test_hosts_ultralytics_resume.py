"""A run that stopped half way goes on: same blocks, same folder, no step or epoch missing."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.hosts.ultralytics import YOLO
from coordcbam.records import read_run

EPOCHS, STEPS = 3, 2  # of 16 images in batches of 8

KILLED = """
import json, os, sys
from coordcbam.hosts.ultralytics import YOLO
import coordcbam as cc
model = YOLO("yolo11n.yaml")
model.insert("P3", cc.BlockConfig.from_notebook(beta_ca=0.6))
def kill(trainer):
    if trainer.epoch == 1:
        os._exit(9)
model.add_callback("on_train_batch_end", kill)
model.train(**json.loads(sys.argv[1]))
"""


def check_resumed(run_dir: Path, calls: Any, counted_epochs: int) -> None:
    run = read_run(run_dir)
    assert run.info.status == "finished"
    assert run.problems == ()
    assert [row["epoch"] for row in run.metrics] == list(range(EPOCHS))
    assert run.series("model.16", "r_ema")[0] == list(range(EPOCHS * STEPS))
    with (run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert all(float(row["coordcbam/model.16/r_ema"]) < 1 for row in rows)
    assert calls.train == counted_epochs * STEPS


def resume(run_dir: Path) -> tuple[Any, list[int]]:
    model = YOLO(run_dir / "weights" / "last.pt")
    starts: list[int] = []
    model.add_callback("on_train_start", lambda trainer: starts.append(trainer.start_epoch))
    model.train(resume=True)
    return model, starts


def test_after_an_exception(
    settings: dict[str, Any], stopping_at: Callable[..., Any], calls: Any
) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3", cc.BlockConfig.from_notebook(beta_ca=0.6))
    with stopping_at(model, "on_train_batch_end", 3):
        model.train(**{**settings, "epochs": EPOCHS})
    run_dir = Path(settings["project"], "run")
    started = read_run(run_dir).info.started
    calls.train = 0
    model, starts = resume(run_dir)
    assert starts == [1]
    ((path, block),) = cc.blocks(model.model)
    assert path == "model.16.ccattn"
    assert block.config.channel.beta == 0.6
    check_resumed(run_dir, calls, counted_epochs=2)
    assert read_run(run_dir).info.started == started


@pytest.mark.long
def test_after_a_kill(
    settings: dict[str, Any], fresh_process: Callable[..., str], calls: Any
) -> None:
    fresh_process(KILLED, json.dumps({**settings, "epochs": EPOCHS}), expect=9)
    run_dir = Path(settings["project"], "run")
    killed = read_run(run_dir)
    assert killed.info.status == "running"
    assert killed.problems == ()
    assert [row["epoch"] for row in killed.metrics] == [0]
    model, starts = resume(run_dir)
    assert starts == [1]
    assert len(cc.blocks(model.model)) == 1
    check_resumed(run_dir, calls, counted_epochs=2)


def test_plain_yolo_resumes_with_the_blocks(
    settings: dict[str, Any], stopping_at: Callable[..., Any], calls: Any
) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    with stopping_at(model, "on_train_epoch_start", 2):
        model.train(**{**settings, "epochs": 2})
    last = Path(settings["project"], "run", "weights", "last.pt")
    calls.train = 0
    plain = ultralytics.YOLO(last)
    plain.train(resume=True)
    assert len(cc.blocks(plain.model)) == 1
    assert calls.train == STEPS


def numbers(network: Any) -> dict[str, Any]:
    """What each block's monitor goes by, with the types it is kept in."""
    buffers = network.state_dict().items()
    words = (".r_ema", ".updates", ".skipped")
    return {name: (value.dtype, value.item()) for name, value in buffers if name.endswith(words)}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints in the order in which they got their names."""
    names: list[str] = []
    replace = Path.replace

    def replaced(self: Path, target: Path) -> Path:
        names.extend([target.name] if target.suffix == ".pt" else [])
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    return names


# Eight batches a step of the optimizer: step 2 moves its average between steps, too.
@pytest.mark.parametrize(("preset", "nbs"), [("step2", 64), ("step3", 8)])
def test_what_is_validated_and_saved_are_the_live_numbers(
    settings: dict[str, Any], preset: str, nbs: int, named: list[str]
) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3", cc.BlockConfig.preset(preset))
    live: dict[int, Any] = {}
    trainers: list[Any] = []

    def validated(_: Any) -> None:
        (trainer,) = trainers
        if trainer.epoch not in live:  # the evaluation of best.pt comes after the last epoch
            live[trainer.epoch] = numbers(trainer.model)
            assert numbers(trainer.ema.ema) == live[trainer.epoch]

    def saved(trainer: Any) -> None:
        for file in (trainer.last, trainer.wdir / f"epoch{trainer.epoch}.pt"):
            checkpoint = torch.load(file, weights_only=False)
            assert numbers(checkpoint["ema"]) == live[trainer.epoch]
        best = torch.load(trainer.best, weights_only=False)
        assert numbers(best["ema"]) == live[best["epoch"]]
        # A kill leaves an old last.pt, from which the epoch is repeated, or all that goes with it.
        assert named[-1] == "last.pt"
        assert [row["epoch"] for row in read_run(trainer.save_dir).metrics] == list(live)

    model.add_callback("on_train_start", trainers.append)
    model.add_callback("on_val_start", validated)
    model.add_callback("on_model_save", saved)
    model.train(**{**settings, "imgsz": 64, "epochs": 2, "nbs": nbs, "save_period": 1})
    assert list(live) == [0, 1]
    types = {dtype for dtype, _ in live[1].values()}
    assert types == ({torch.float32} if preset == "step2" else {torch.float32, torch.int64})
    # These have passed through no float16.
    averages = [value for dtype, value in live[1].values() if dtype == torch.float32]
    assert all(torch.tensor(r).half().item() != r for r in averages)
    assert sorted(named[:3]) == ["best.pt", "epoch0.pt", "last.pt"]
    weights = Path(settings["project"], "run", "weights")
    assert numbers(torch.load(weights / "last.pt", weights_only=False)["model"]) == live[1]
    names = {"best.pt", "last.pt", "epoch0.pt", "epoch1.pt"}
    assert {file.name for file in weights.iterdir()} == names


@pytest.mark.long
def test_a_full_disk_leaves_the_last_checkpoint(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    write = Path.write_bytes
    writes: list[Path] = []

    def write_until_full(path: Path, data: bytes) -> int:
        writes.extend([path] if path.suffix == ".pt" else [])
        if len(writes) > 2:  # last.pt and best.pt of the first epoch
            write(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(OSError, match="No space left"):
        model.train(**{**settings, "imgsz": 64, "epochs": 2})
    monkeypatch.undo()
    weights = Path(settings["project"], "run", "weights")
    assert {file.name for file in weights.iterdir()} == {"best.pt", "last.pt"}
    _, starts = resume(weights.parent)
    assert starts == [1]


@pytest.mark.parametrize("first", [None, "P3"])
def test_blocks_that_the_checkpoint_has_not_are_not_lost_in_silence(
    first: str | None, settings: dict[str, Any], stopping_at: Callable[..., Any]
) -> None:
    model = YOLO("yolo11n.yaml")
    if first:
        model.insert(first)
    with stopping_at(model, "on_train_batch_end", 3):
        model.train(**{**settings, "epochs": EPOCHS})
    last = Path(settings["project"], "run", "weights", "last.pt")
    before = last.read_bytes()
    model = YOLO(last)
    model.insert("P4,P5")
    with pytest.raises(UsageError, match=r"no block at model.19, model.22: .* before you insert"):
        model.train(resume=True)
    assert last.read_bytes() == before
    model.save(last.with_name("more.pt"))  # an optimizer of other parameters stays behind
    more = YOLO(last.with_name("more.pt"))
    assert more.ckpt["optimizer"] is None
    assert len(cc.blocks(more.model)) == (3 if first else 2)


@pytest.mark.long
def test_another_run_in_the_same_folder_has_records_of_its_own(settings: dict[str, Any]) -> None:
    arguments = {**settings, "exist_ok": True}
    model = YOLO("yolo11n.yaml")
    model.insert("P3,P4")
    model.train(**{**arguments, "epochs": 2})
    model = YOLO("yolo11n.yaml")
    model.insert("P5")
    model.train(**arguments)
    folder = Path(settings["project"], "run")
    run, old = read_run(folder), read_run(folder / "coordcbam" / "previous")
    assert run.blocks() == ["model.22"]
    assert run.series("model.22", "rho")[0] == list(range(STEPS))
    assert [row["epoch"] for row in run.metrics] == [0]
    assert (old.blocks(), len(old.metrics)) == (["model.16", "model.19"], 2)
