"""Processes that Ultralytics spawns know the blocks: other GPUs, several data sets, tuning.

On the CPU the file that it writes for another GPU is run as it would be, in a fresh process that is
started from another directory, without the launcher.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from ultralytics.engine import trainer as engine
from ultralytics.nn import tasks

import coordcbam as cc
from coordcbam.hosts.ultralytics import YOLO, write_model

pytest.importorskip("cloudpickle")

from _support.offline import environment


def spawned(
    trainer: Any, tmp_path: Path, *, plain: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the file for a child of ``trainer``; ``plain``: which only its callbacks tell of us."""
    from ultralytics.utils import dist

    file = dist.generate_ddp_file(trainer)
    if plain and not Path(file).with_suffix(".pt").exists():
        Path(file).unlink()
        pytest.skip("this Ultralytics tells a child nothing but the names of its files")
    away = tmp_path / "elsewhere"
    away.mkdir()
    child = environment(tmp_path / "config")
    child.pop("PYTHONPATH", None)
    try:
        return subprocess.run(  # noqa: PLW1510  (the caller looks at the status)
            [sys.executable, file], env=child, cwd=away, capture_output=True, text=True, timeout=300
        )
    finally:
        for path in (Path(file), Path(file).with_suffix(".pt")):
            path.unlink(missing_ok=True)


def trainer_of(model: Any, settings: dict[str, Any]) -> Any:
    """A trainer as ``train`` makes it, before it starts."""
    model.overrides |= {"model": model.overrides["model"]}
    overrides = {**model.overrides, **settings, "task": "detect", "mode": "train"}
    made = model._smart_load("trainer")(overrides=overrides, _callbacks=model.callbacks)
    if model.ckpt:
        made.model = made.get_model(weights=model.model, cfg=model.model.yaml)
    return made


def blocks_in(folder: Path) -> list[str]:
    network = YOLO(folder / "weights" / "best.pt").model
    assert all(block.updates >= 1 for _, block in cc.blocks(network))
    return [path for path, _ in cc.blocks(network)]


@pytest.mark.long
@pytest.mark.parametrize("kind", [YOLO, ultralytics.YOLO], ids=["ours", "plain"])
@pytest.mark.parametrize("route", ["hook", "rows"])
def test_a_child_trains_the_blocks(
    kind: Any, route: str, tmp_path: Path, settings: dict[str, Any]
) -> None:
    if route == "rows":
        write_model(YOLO("yolo11n.yaml"), tmp_path / "yolo11n-cc.yaml", "P3,P4")
        model = kind(tmp_path / "yolo11n-cc.yaml")
        wanted = ["model.17.ccattn", "model.21.ccattn"]
    else:
        source = YOLO("yolo11n.yaml")
        source.insert("P3,P4")
        source.save(tmp_path / "with.pt")
        model = kind(tmp_path / "with.pt")
        wanted = ["model.16.ccattn", "model.19.ccattn"]
    plain = kind is not YOLO and route == "rows"
    done = spawned(trainer_of(model, settings), tmp_path, plain=plain)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    assert blocks_in(run) == wanted
    if kind is YOLO:  # watched, and once a batch
        rows = (run / "coordcbam" / "monitor.csv").read_text().splitlines()
        assert len(rows) == 1 + 2 * len(wanted)


def test_a_child_that_is_told_nothing_would_not_know_the_row(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The control: without anything of ours in what the child is given, it fails, loudly."""
    write_model(YOLO("yolo11n.yaml"), tmp_path / "yolo11n-cc.yaml", "P3")
    trainer = trainer_of(ultralytics.YOLO(tmp_path / "yolo11n-cc.yaml"), settings)
    trainer.callbacks = {}
    done = spawned(trainer, tmp_path, plain=True)
    assert done.returncode != 0
    assert "KeyError: 'CoordCBAMLayer'" in done.stderr


@pytest.mark.long
def test_several_data_sets_keep_the_blocks_and_the_monitor(
    tmp_path: Path, settings: dict[str, Any], trained_data: Path
) -> None:
    if not hasattr(engine, "MultiTrainer"):
        pytest.skip("this Ultralytics trains on one data set")
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    second = trained_data.parent / "other.yaml"
    second.write_text(trained_data.read_text(encoding="utf-8"), encoding="utf-8")
    arguments = {key: value for key, value in settings.items() if key != "name"}
    model.train(**{**arguments, "data": [settings["data"], str(second)]})
    runs = sorted(path.parent.parent for path in tmp_path.rglob("best.pt"))
    assert len(runs) == 2
    for run in runs:
        assert blocks_in(run) == ["model.16.ccattn"]
        assert (run / "coordcbam" / "monitor.csv").exists()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_tuning_keeps_the_blocks(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment(tmp_path / "config").items():
        monkeypatch.setenv(key, value)
    for key in [k for k in os.environ if k.startswith("PYTEST_")]:
        monkeypatch.delenv(key)
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    arguments = {key: value for key, value in settings.items() if key != "name"}
    # Once it is done, older releases fail to draw a run whose score is 0.
    with contextlib.suppress(ValueError):
        model.tune(**arguments, iterations=1, space={"lr0": (1e-4, 1e-2)}, save=True, val=True)
    best = list(tmp_path.rglob("best.pt"))
    assert best
    assert len(cc.blocks(YOLO(best[0]).model)) == 1


SAFE = """
import sys
import coordcbam.hosts.ultralytics
from ultralytics import YOLO
import coordcbam as cc
network = YOLO(sys.argv[1]).model
print([path for path, _ in cc.blocks(network)], len(network.state_dict()))
"""


@pytest.mark.parametrize("route", ["hook", "rows"])
def test_checkpoints_load_where_only_known_names_may(
    route: str, tmp_path: Path, fresh_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = YOLO("yolo11n.yaml")
    if route == "hook":
        model.insert("P3")
    else:
        write_model(model, tmp_path / "yolo11n-cc.yaml", "P3")
        model = YOLO(tmp_path / "yolo11n-cc.yaml")
    model.save(tmp_path / "best.pt")
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    told = fresh_process(SAFE, tmp_path / "best.pt")
    place = "model.16.ccattn" if route == "hook" else "model.17.ccattn"
    assert f"['{place}'] {len(model.model.state_dict())}" in told
    names = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "best.pt")
    assert not [name for name in names if "coordcbam" in name]
    if not hasattr(tasks, "_SafeLoad"):
        return  # this Ultralytics has no such mode
    (tmp_path / "other.py").write_text("import torch\nclass Other(torch.nn.Identity): pass\n")
    with monkeypatch.context() as patch:  # the control: a name that nobody allows
        patch.syspath_prepend(str(tmp_path))
        import other

        model.model.model[0].more = other.Other()
        model.save(tmp_path / "other.pt")
    assert "TypeError" in fresh_process(SAFE, tmp_path / "other.pt", expect=1)
