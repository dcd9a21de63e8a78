"""Ultralytics' own loggers, all four, offline: our columns, histograms and pictures arrive.

In processes of their own: Ultralytics logs nothing where it sees pytest.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from _support import logged
from _support.offline import environment
from coordcbam.hosts.ultralytics import YOLO
from coordcbam.hosts.yolo import backends
from coordcbam.records import read_pictures, read_run

LOGGED = ("r_out_pre", "r_ema", "alpha_eff")
BLOCKS = ("model.19", "model.22")
EPOCHS = 2
SHORT = {
    "imgsz": 128,
    "batch": 8,
    "epochs": EPOCHS,
    "mosaic": 0.0,
    "device": "cpu",
    "amp": False,
    "workers": 0,
    "plots": False,
}
IMAGES = 4
TRAINING = """
import json, sys
import torch
from ultralytics import SETTINGS
SETTINGS.update(tensorboard=True, wandb=True, mlflow=True, comet=True)
from coordcbam import BlockConfig
from coordcbam.hosts.ultralytics import YOLO
torch.manual_seed(0)
model = YOLO("yolo11n.yaml")
model.insert("P4,P5", BlockConfig.step2())
model.train(**json.loads(sys.argv[1]))
"""
NAMES = {
    "channel_gates": lambda c, h, w: c,
    "row_gates": lambda c, h, w: c * h,
    "column_gates": lambda c, h, w: c * w,
}


def offline(folder: Path) -> dict[str, str]:
    return {
        **environment(folder / "config"),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_TRACKING_URI": (folder / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # a data base needs the whole mlflow
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(folder / "comet"),
        "COMET_DISABLE_AUTO_LOGGING": "1",  # else it copies what TensorBoard gets
    }


@pytest.fixture(scope="session")
def run(shared_folder: Path, small_data: Path) -> Path:
    """The folder of a training with all loggers on; its ``save_dir`` is ``run`` in it."""
    for client in ("tensorboard", "wandb", "mlflow", "comet_ml"):
        pytest.importorskip(client)
    folder = shared_folder / "loggers"
    folder.mkdir(exist_ok=True)
    said = folder / "said.txt"
    with FileLock(f"{folder}.lock"):
        if not said.exists():
            where = {"data": str(small_data), "project": str(folder), "name": "run"}
            settings = {**SHORT, **where}
            done = subprocess.run(
                [sys.executable, "-c", TRAINING, json.dumps(settings)],
                env=offline(folder),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=500,
                check=True,
            )
            said.write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder


def last_of_each_epoch(run: Path, blocks: Iterable[str] = BLOCKS) -> dict[str, list[float]]:
    """What monitor.csv says at the end of each epoch: two steps, and a reading at each."""
    records = read_run(run)
    return {
        f"coordcbam/{block}/{name}": [records.series(block, name)[1][i] for i in (1, 3)]
        for block in blocks
        for name in LOGGED
    }


def counts() -> dict[str, int]:
    """How many gates each block has for the probe: P4 and P5 of 128 pixels, padded to 160."""
    sizes = {"model.19": (128, 10, 10), "model.22": (256, 5, 5)}
    return {
        f"coordcbam/{block}/{name}": IMAGES * count(*size)
        for block, size in sizes.items()
        for name, count in NAMES.items()
    }


def pictures(run: Path) -> set[str]:
    found = read_pictures(run / "coordcbam", [])
    return {f"coordcbam/{one.block}/{one.stage}/{Path(one.image).with_suffix('')}" for one in found}


@pytest.mark.long
def test_tensorboard(run: Path) -> None:
    scalars = logged.board_scalars(run / "run")
    for name, values in last_of_each_epoch(run / "run").items():
        assert [step for step, _ in scalars[name]] == [1, 2]
        assert [value for _, value in scalars[name]] == pytest.approx(values, rel=1e-6)
    assert logged.board_counts(run / "run") == {
        name: [(step, count) for step in (1, 2)] for name, count in counts().items()
    }
    images = logged.board(run / "run")
    assert set(images.Tags()["images"]) == pictures(run / "run")
    assert all(
        [image.step for image in images.Images(name)] == [EPOCHS] for name in pictures(run / "run")
    )
    assert pictures(run / "run")


@pytest.mark.long
def test_wandb(run: Path) -> None:
    rows = logged.wandb_rows(run / "run" / "wandb")
    for name, values in last_of_each_epoch(run / "run").items():
        found = [(row["epoch"], row[name]) for row in rows if name in row]
        assert [epoch for epoch, _ in found] == [1, 2]
        assert [value for _, value in found] == pytest.approx(values)
    for name, count in counts().items():
        found = [(row["epoch"], sum(row[name]["values"])) for row in rows if name in row]
        assert found == [(1, count), (2, count)]
    assert all("metrics/mAP50(B)" in row for row in rows if "coordcbam/model.19/r_ema" in row)
    for name in pictures(run / "run"):
        assert [row["epoch"] for row in rows if name in row] == [EPOCHS]


@pytest.mark.long
def test_mlflow(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    uri = (run / "mlflow").as_uri()
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    for name, values in last_of_each_epoch(run / "run").items():
        series = logged.mlflow_series(uri, found.info.run_id, name)
        assert [step for step, _ in series] == [0, 1]  # where Ultralytics puts its own
        assert [value for _, value in series] == pytest.approx(values)
    for name in pictures(run / "run"):
        assert len(client.list_artifacts(found.info.run_id, f"{name}/{EPOCHS}")) == 1


@pytest.mark.long
def test_comet(run: Path) -> None:
    scalars = logged.comet_scalars(run / "comet")
    for name, values in last_of_each_epoch(run / "run").items():
        first, second, again = scalars[name]
        assert [value for _, value in (first, second)] == pytest.approx(values)
        assert again[1] == second[1]  # Ultralytics logs its rates once more, after the last epoch
    assert logged.comet_counts(run / "comet") == {
        name: [count] * EPOCHS for name, count in counts().items()
    }
    uploads = logged.comet_uploads(run / "comet", "visualization")
    ours = [one["figName"] for one in uploads if one["figName"].startswith("coordcbam/")]
    assert sorted(ours) == sorted(pictures(run / "run"))


@pytest.mark.long
def test_nothing_went_wrong(run: Path) -> None:
    said = (run / "said.txt").read_text(encoding="utf-8")
    assert "offline" in said
    assert "coordcbam: " not in said
    assert "is off: " not in said
    assert "no histograms" not in said


@pytest.mark.long
def test_a_training_is_the_same_with_what_we_send_and_without(
    settings: dict[str, Any], tmp_path: Path, fresh_process: Any
) -> None:
    """Only the sending differs: some trackers draw random numbers themselves."""
    pytest.importorskip("tensorboard")
    code = """
    import json, sys
    import torch
    from ultralytics import SETTINGS
    SETTINGS.update(tensorboard=True)
    from coordcbam.hosts.ultralytics import Monitored, YOLO
    def train(name):
        torch.manual_seed(0)
        model = YOLO("yolo11n.yaml")
        model.insert("P5")
        model.train(**{**json.loads(sys.argv[1]), "name": name})
    train("sent")
    Monitored.coordcbam_back_ends = lambda self: {}
    train("kept")
    """
    fresh_process(code, json.dumps({**settings, "epochs": EPOCHS}))
    sent, kept = tmp_path / "sent", tmp_path / "kept"
    assert logged.board_counts(sent)
    assert not logged.board_counts(kept)
    states = [YOLO(one / "weights" / "last.pt").model.state_dict() for one in (sent, kept)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    # And the live network's, of which the saved average has seen little.
    assert last_of_each_epoch(sent, ["model.22"]) == last_of_each_epoch(kept, ["model.22"])


@pytest.mark.long
def test_a_resumed_run_logs_no_epoch_twice(
    settings: dict[str, Any], tmp_path: Path, fresh_process: Any
) -> None:
    pytest.importorskip("tensorboard")
    code = """
    import json, sys
    from ultralytics import SETTINGS
    SETTINGS.update(tensorboard=True)
    from coordcbam.hosts.ultralytics import YOLO
    settings = json.loads(sys.argv[1])
    class Stopped(Exception): pass
    def stop(trainer):
        if trainer.epoch == 1:
            raise Stopped
    model = YOLO("yolo11n.yaml")
    model.insert("P5")
    model.add_callback("on_model_save", stop)
    try:
        model.train(**settings)
    except Stopped:
        YOLO(f"{settings['project']}/run/weights/last.pt").train(resume=True)
    """
    fresh_process(code, json.dumps({**settings, "epochs": 3}))
    counted = logged.board_counts(tmp_path / "run")
    assert {name.rpartition("/")[2] for name in counted} == set(NAMES)
    assert all([step for step, _ in series] == [1, 2, 3] for series in counted.values())


def test_the_other_tests_meet_no_tracker(fresh_process: Any) -> None:
    said = fresh_process(
        """
        from ultralytics import SETTINGS
        print([name for name in ("comet", "mlflow", "wandb", "tensorboard") if SETTINGS[name]])
        """
    )
    assert said.split() == ["[]"]


# --- without a training ---------------------------------------------------------------------------


class Trainer(SimpleNamespace):
    def coordcbam_back_ends(self) -> Any:
        return self.back_ends


def test_a_back_end_of_another_release_is_a_line_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(backends.LOGGER, "warning", said.append)

    def changed() -> Any:
        raise AttributeError("module 'wb' has no attribute 'run'")

    trainer = Trainer(back_ends={"wb": changed, "comet": lambda: None})
    backends.begin(trainer)
    assert said == [
        "coordcbam: wb gets no histograms and no pictures: module 'wb' has no attribute 'run'"
    ]
    trainer.epoch, trainer.test_loader = 0, None
    trainer.coordcbam_monitor = SimpleNamespace(model=None)
    backends.epoch_end(trainer)  # nobody wants histograms, so nobody asks for images


def test_a_data_set_that_gives_no_images_is_a_line_and_no_error(caplog: Any) -> None:
    taken: list[Any] = []
    taker = SimpleNamespace(log=None, histograms=lambda *values: taken.append(values))
    taker.log = lambda values, step: None
    trainer = Trainer(back_ends={"mine": lambda: taker}, epoch=0)
    trainer.coordcbam_monitor = SimpleNamespace(model=torch.nn.ReLU())
    trainer.test_loader = SimpleNamespace(dataset=[])
    backends.begin(trainer)
    for _ in range(2):
        backends.epoch_end(trainer)
    assert caplog.text.count("no histograms of gates: the probe failed") == 1
    assert taken == []


def test_the_probe_is_of_one_size_and_between_0_and_1() -> None:
    sizes = [(3, 4, 4), (3, 4, 8), (3, 4, 4), (3, 4, 4), (3, 4, 4)]
    dataset = [{"img": torch.full(size, 255, dtype=torch.uint8)} for size in sizes]
    found = backends.probe(dataset)
    assert (found.shape, found.min(), found.max()) == ((3, 3, 4, 4), 1.0, 1.0)
    ready = [{"img": torch.full((3, 4, 4), 0.5)}]  # a classifier's
    assert torch.equal(backends.probe(ready), ready[0]["img"][None])


def test_a_data_set_that_draws_random_numbers_leaves_the_training_its_own() -> None:
    class Drawing(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            return {"img": torch.rand(3, 4, 4) + random.random() + np.random.rand()}

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    backends.probe(Drawing([0]))
    assert drawn() == wanted


def test_of_several_processes_the_others_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from coordcbam.hosts.yolo import watching

    monkeypatch.setitem(os.environ, "RANK", "1")
    begun: list[Any] = []
    monkeypatch.setattr(backends, "begin", begun.append)
    model = YOLO("yolo11n.yaml")
    model.insert("P5")
    watching.start(SimpleNamespace(model=model.model, coordcbam_monitor=None))
    assert begun == []
