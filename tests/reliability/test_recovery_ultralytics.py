"""kill -9 in an Ultralytics training: resumed, it finishes with what the last save knew."""

import json
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("ultralytics")

import torch
from recovery import yolo
from recovery.instants import draw
from recovery.killing import Instant, Killed, run

import coordcbam as cc
from coordcbam.data import DigitsConfig, digits
from coordcbam.records import read_run

# While best.pt of the first epoch is written, last.pt of the second, and best.pt of the end.
CHOSEN = {
    Instant("write", 1, 5): "anew",
    Instant("write", 2, 9): "resumed",
    Instant("rewrite", 1, 5): "closed",
}
DRAWN = {"run": 5, "step": 6, "save": 3, "write": 2, "rewrite": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return digits(
        DigitsConfig(train=16, val=8), root=tmp_path_factory.getbasetemp().parent / "digits"
    )


def diary(folder):
    path = folder / "diary.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [SimpleNamespace(**json.loads(line)) for line in lines]


def checkpoints(folder):
    """Every file with a checkpoint's name, which has to hold one."""
    found = sorted((folder / "run" / "weights").glob("*.pt"))
    return {file.stem: torch.load(file, weights_only=False) for file in found}


def check_like_the_save(folder, saved, epoch):
    """The resumed run began, live and averaged, with what the save of ``epoch`` knew."""
    began = next(line for line in reversed(diary(folder)) if line.event == "began")
    assert began.epoch == epoch + 1
    assert began.live == began.averaged == saved[epoch]


def check_finished(folder):
    """Nothing is missing, nothing is left over."""
    found = read_run(folder / "run")
    assert found.info.status == "finished"
    assert found.problems == ()
    assert [row["epoch"] for row in found.metrics] == list(range(yolo.EPOCHS))
    for block in ("model.16", "model.19"):
        assert found.series(block, "r_ema")[0] == list(range(yolo.EPOCHS * yolo.STEPS))
    assert (found.folder / "report.html").exists()
    whole = checkpoints(folder)
    assert set(whole) == {"best", "last"}
    for checkpoint in whole.values():
        assert checkpoint["epoch"] == -1  # stripped
        for _, block in cc.blocks(checkpoint["model"]):
            assert block.r_ema.dtype == torch.float32
            assert block.skipped.dtype == torch.int64
    assert {file.name for file in (folder / "run" / "weights").iterdir()} == {"best.pt", "last.pt"}


def killed_and_resumed(folder, data, instant):
    """Train, kill, look, go on; returns where it was killed and how it went on."""
    folder.mkdir()
    killed = run(yolo.begin, folder, data, kill_at=instant)
    assert isinstance(killed, Killed)
    left = checkpoints(folder)
    saved = {line.epoch: line.live for line in diary(folder) if line.event == "saves"}
    if "last" not in left:
        run(yolo.begin, folder, data)
        how = "anew"
    elif left["last"]["epoch"] == -1:
        how = "was over"
    else:
        epoch = left["last"]["epoch"]
        run(yolo.resume, folder)
        how = "resumed" if epoch + 1 < yolo.EPOCHS else "closed"
        if how == "resumed":
            check_like_the_save(folder, saved, epoch)
    check_finished(folder)
    shutil.rmtree(folder)
    return killed, how


@pytest.mark.long
def test_twenty_kills_lose_no_number_of_the_last_save(tmp_path, data, figure):
    whole = tmp_path / "whole"
    whole.mkdir()
    calls = run(yolo.begin, whole, data, count=True).calls
    check_finished(whole)
    averages = [block["r_ema"][1] for line in diary(whole)[1:] for block in line.live.values()]
    assert all(torch.tensor(r).half().item() != r for r in averages)  # float16 would show
    found = [
        killed_and_resumed(tmp_path / str(number), data, instant)
        for number, instant in enumerate([*CHOSEN, *draw(calls, DRAWN, seed=5)])
    ]
    chosen = found[: len(CHOSEN)]
    assert [killed.inside[-1] for killed, _ in chosen] == [instant.region for instant in CHOSEN]
    assert [how for _, how in chosen] == list(CHOSEN.values())
    saving = sum(bool({"save", "rewrite"} & set(killed.inside)) for killed, _ in found)
    anew = sum(how == "anew" for _, how in found)
    assert 5 <= saving <= 15
    assert anew < 10
    said = f"{len(found)}/20 finish, {saving} of them killed in a save, {anew} before the first"
    figure("kill -9, Ultralytics", said, "20/20")
