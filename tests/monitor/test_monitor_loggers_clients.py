"""The same numbers in the clients' own files: TensorBoard, W&B, MLflow and Comet, offline."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import coordcbam as cc
from _support import logged
from coordcbam._support.errors import UsageError
from coordcbam.monitor.loggers import Comet, MLflow, TensorBoard, WandB
from coordcbam.records import Picture, write_pictures

# What the clients and what they load say of themselves is not about us.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _only_what_is_asked_for(monkeypatch, tmp_path):
    # Once imported, Comet opens an experiment of its own for each run of MLflow.
    monkeypatch.setenv("COMET_DISABLE_AUTO_LOGGING", "1")
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "other"))
    yield
    assert not (tmp_path / "other").exists()


PROBE = torch.linspace(-1, 1, 2 * 3 * 6 * 5).reshape(2, 3, 6, 5)
COUNTS = {"channel_gates": 2 * 8, "row_gates": 2 * 8 * 6, "column_gates": 2 * 8 * 5}
STEPS = [0, 2, 4]
PICTURE = "coordcbam/1/after/a"


def trained(folder, loggers, first_step=0, model=None):
    """Five steps, read at every second, with a picture and gates as drawn."""
    config = cc.BlockConfig.step3().replace(init="notebook")
    model = model or nn.Sequential(nn.Conv2d(3, 8, 1), cc.CoordCBAM(8, config)).train()
    with cc.Monitor(
        model, folder, every=2, first_step=first_step, loggers=loggers, probe=PROBE
    ) as monitor:
        pixels = np.zeros((4, 6, 3), np.uint8)
        pixels[..., 0] = 255
        Image.fromarray(pixels).save(monitor.folder / "a.png")
        picture = Picture(image="a.jpg", block="1", stage="after", file="a.png")
        write_pictures(monitor.folder, [picture])
        for _ in range(5):
            model(torch.randn(2, 3, 6, 5))
            monitor.step()
    return model


def written(folder):
    """What monitor.csv says, as series of the names that loggers get."""
    found = {}
    with (folder / "coordcbam" / "monitor.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            step, _, _, block = (row.pop(name) for name in ("step", "epoch", "seconds", "block"))
            for name, cell in row.items():
                if not math.isnan(float(cell)):
                    series = found.setdefault(f"coordcbam/{block}/{name}", [])
                    series.append((int(step), float(cell)))
    assert [step for step, _ in found["coordcbam/1/rho"]] == STEPS
    return found


# --- TensorBoard ----------------------------------------------------------------------------------


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    trained(tmp_path, [TensorBoard(tmp_path / "board")])
    scalars, wanted = logged.board_scalars(tmp_path / "board"), written(tmp_path)
    assert scalars.keys() == wanted.keys()
    for name, series in wanted.items():
        assert scalars[name] == [(step, float(np.float32(value))) for step, value in series]
    assert logged.board_counts(tmp_path / "board") == {
        f"coordcbam/1/{name}": [(step, count) for step in STEPS] for name, count in COUNTS.items()
    }
    (image,) = logged.board(tmp_path / "board").Images(PICTURE)
    assert (image.step, image.width, image.height) == (4, 6, 4)


def test_tensorboard_shows_a_repeated_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    model = trained(tmp_path, [TensorBoard(tmp_path / "board")])
    trained(
        tmp_path, [TensorBoard(tmp_path / "board")], first_step=2, model=model
    )  # killed after 2
    series = logged.board_scalars(tmp_path / "board")["coordcbam/1/rho"]
    assert [step for step, _ in series] == [0, 2, 4, 6]


def test_a_writer_of_yours_stays_open(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path / "board")
    trained(tmp_path, [TensorBoard(writer)])
    assert "coordcbam/1/rho" in logged.board_scalars(tmp_path / "board")  # flushed
    writer.add_scalar("mine", 1.0, 0)
    writer.close()
    (file,) = (tmp_path / "board").iterdir()  # closed, it would have begun another
    assert "mine" in logged.board_scalars(tmp_path / "board")
    assert file.name.startswith("events")


# --- Weights & Biases -----------------------------------------------------------------------------


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    client = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")

    def start():
        return client.init(
            mode="offline",
            dir=tmp_path,
            project="coordcbam",
            settings=client.Settings(x_disable_stats=True, x_disable_meta=True, console="off"),
        )

    client.start_for_test = start
    yield client
    if client.run is not None:
        client.finish()


def test_wandb(tmp_path, wandb):
    run = wandb.start_for_test()
    trained(tmp_path, [WandB()])
    run.finish()
    for name, series in written(tmp_path).items():
        assert logged.wandb_series(tmp_path / "wandb", "coordcbam/step", name) == series
    for name, count in COUNTS.items():
        found = logged.wandb_series(tmp_path / "wandb", "coordcbam/step", f"coordcbam/1/{name}")
        assert [(step, sum(value["values"])) for step, value in found] == [
            (s, count) for s in STEPS
        ]
    ((step, image),) = logged.wandb_series(tmp_path / "wandb", "coordcbam/step", PICTURE)
    assert (step, image["width"], image["height"]) == (4, 6, 4)


def test_nothing_is_lost_beside_a_loop_that_logs_itself(tmp_path, wandb):
    """W&B drops what has a step under its counter."""
    run = wandb.start_for_test()
    for _ in range(20):
        run.log({"loss": 1.0})
    trained(tmp_path, [WandB(run)])
    run.finish()
    name = "coordcbam/1/rho"
    series = logged.wandb_series(tmp_path / "wandb", "coordcbam/step", name)
    assert series == written(tmp_path)[name]
    assert len([row for row in logged.wandb_rows(tmp_path / "wandb") if "loss" in row]) == 20


def test_nothing_is_lost_beside_a_loop_with_steps_of_its_own(tmp_path, wandb):
    run = wandb.start_for_test()
    board = WandB(run)
    for step in range(4):
        run.log({"loss": 1.0}, step=step)
        board.log({"coordcbam/1/rho": float(step)}, step=step)
    run.finish()
    rows = logged.wandb_rows(tmp_path / "wandb")
    assert [(row["_step"], row["coordcbam/1/rho"], row["loss"]) for row in rows] == [
        (step, float(step), 1.0) for step in range(4)
    ]


def test_without_commit_a_reading_is_in_the_loops_own_row(tmp_path, wandb):
    run = wandb.start_for_test()
    board = WandB(run, commit=False)
    for step in range(3):
        board.log({"coordcbam/1/rho": float(step)}, step=step)
        run.log({"loss": 1.0})
    run.finish()
    rows = logged.wandb_rows(tmp_path / "wandb")
    assert [(row["coordcbam/step"], row["coordcbam/1/rho"], row["loss"]) for row in rows] == [
        (step, float(step), 1.0) for step in range(3)
    ]


def test_a_run_of_wandb_is_a_logger_as_it_is(tmp_path, wandb):
    run = wandb.start_for_test()
    trained(tmp_path, [run])
    run.finish()
    for name, series in written(tmp_path).items():
        assert logged.wandb_series(tmp_path / "wandb", "_step", name) == series


def test_wandb_without_a_run_is_refused(wandb):
    with pytest.raises(UsageError, match=r"no run is active; call wandb\.init\(\)"):
        WandB()


# --- MLflow ---------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base needs the whole mlflow
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    client = pytest.importorskip("mlflow")
    before = client.get_tracking_uri()
    yield client
    while client.active_run():
        client.end_run()
    client.set_tracking_uri(before)


def read_mlflow(folder, uri, run_id):
    for name, series in written(folder).items():
        assert logged.mlflow_series(uri, run_id, name) == series


def test_mlflow_makes_a_run_where_it_is_told(tmp_path, mlflow):
    uri = (tmp_path / "store").as_uri()
    board = MLflow(tracking_uri=uri)
    trained(tmp_path, [board])
    read_mlflow(tmp_path, uri, board.run_id)
    client = mlflow.MlflowClient(uri)
    assert client.get_run(board.run_id).info.status == "FINISHED"
    (found,) = client.list_artifacts(board.run_id, f"{PICTURE}/4")
    assert found.path == f"{PICTURE}/4/a.png"


def test_mlflow_has_a_failed_run_as_failed(tmp_path, mlflow):
    uri = (tmp_path / "store").as_uri()
    board = MLflow(tracking_uri=uri)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), cc.CoordCBAM(8))
    with pytest.raises(KeyError), cc.Monitor(model, tmp_path, loggers=[board]):
        raise KeyError
    assert mlflow.MlflowClient(uri).get_run(board.run_id).info.status == "FAILED"


def test_mlflow_takes_the_active_run_and_leaves_it_so(tmp_path, mlflow):
    uri = (tmp_path / "store").as_uri()
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run() as run:
        trained(tmp_path, [MLflow()])
        assert mlflow.active_run().info.run_id == run.info.run_id
        assert mlflow.MlflowClient(uri).get_run(run.info.run_id).info.status == "RUNNING"
    read_mlflow(tmp_path, uri, run.info.run_id)


def test_mlflow_goes_on_in_a_run(tmp_path, mlflow):
    uri = (tmp_path / "store").as_uri()
    run_id = mlflow.MlflowClient(uri).create_run("0").info.run_id
    board = MLflow(run_id, tracking_uri=uri)
    many = {f"coordcbam/neck[{i}]/rho": float(i) for i in range(1200)}  # a request holds a thousand
    board.log(many, step=7)
    assert logged.mlflow_series(uri, run_id, "coordcbam/neck_1199_/rho") == [(7, 1199.0)]
    board.close()
    assert mlflow.MlflowClient(uri).get_run(run_id).info.status == "RUNNING"


def test_mlflow_without_a_run_is_refused(mlflow):
    with pytest.raises(UsageError, match=r"no run is active; call mlflow\.start_run\(\)"):
        MLflow()


# --- Comet ----------------------------------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path):
    comet = pytest.importorskip("comet_ml")
    made = comet.OfflineExperiment(
        offline_directory=str(tmp_path / "comet"),
        project_name="coordcbam",
        display_summary_level=0,
        auto_output_logging=False,
        auto_metric_logging=False,
        auto_param_logging=False,
        log_code=False,
        log_graph=False,
        log_env_details=False,
        log_git_metadata=False,
        log_git_patch=False,
        parse_args=False,
    )
    yield made
    made.end()


def test_comet(tmp_path, experiment):
    trained(tmp_path, [Comet()])  # the one that runs
    experiment.end()
    found, wanted = logged.comet_scalars(tmp_path / "comet"), written(tmp_path)
    assert {name for name in found if name.startswith("coordcbam/")} == wanted.keys()
    for name, series in wanted.items():
        assert found[name] == series
    histograms = logged.comet_uploads(tmp_path / "comet", "histogram3d")
    assert sorted((one["fileName"], one["step"]) for one in histograms) == sorted(
        (f"coordcbam/1/{name}", step) for name in COUNTS for step in STEPS
    )
    counts = logged.comet_counts(tmp_path / "comet")
    assert counts == {f"coordcbam/1/{name}": [n] * len(STEPS) for name, n in COUNTS.items()}
    (image,) = logged.comet_uploads(tmp_path / "comet", "visualization")
    assert (image["figName"], image["step"]) == (PICTURE, 4)


def test_comet_without_an_experiment_that_runs_is_refused(experiment, monkeypatch):
    experiment.end()
    with pytest.raises(UsageError, match=r"no experiment runs"):
        Comet(experiment)
    monkeypatch.setattr("comet_ml.get_running_experiment", lambda: None)
    with pytest.raises(UsageError, match=r"no experiment runs; call comet_ml\.start\(\)"):
        Comet()
