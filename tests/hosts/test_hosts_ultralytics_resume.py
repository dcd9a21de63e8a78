"""A run that stopped half way goes on: same blocks, same folder, no step or epoch missing."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import coordcbam as cc
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
