"""Lightning's own loggers get the gates' histograms and the pictures: read back from real files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

import lightning.pytorch as lightning
from lightning.pytorch import loggers as back_ends

import coordcbam as cc
from _support import logged
from coordcbam.hosts.lightning import CoordCBAMCallback
from coordcbam.records import Picture, write_pictures

# What the clients and what they load say of themselves is not about us.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".*LeafSpec",
        ".*does not have many workers",
        ".*number of training batches",
        ":DeprecationWarning",
        ":FutureWarning",
        ":ResourceWarning",
        ":pytest.PytestUnraisableExceptionWarning",
    )
]

BLOCK, SIDE, EPOCHS, STEPS = "net.1", 8, 2, 3
PROBE = torch.linspace(-1, 1, 2 * 3 * SIDE * SIDE).reshape(2, 3, SIDE, SIDE)
COUNTS = {
    f"coordcbam/{BLOCK}/{name}": 2 * 4 * size
    for name, size in (("channel_gates", 1), ("row_gates", SIDE), ("column_gates", SIDE))
}
PICTURE = f"coordcbam/{BLOCK}/after/a"


class Classifier(lightning.LightningModule):
    """One convolution and its block, whose gates act as drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 4, 1), nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        )
        config = cc.BlockConfig.step3().replace(init="notebook")
        cc.insert_(self, BLOCK, config=config, inputs=PROBE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(cc.parameter_groups(self, 0.0), lr=0.01)


class Painted(lightning.Callback):
    """A picture in the run's folder, as ``coordcbam.pictures.look`` leaves one."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        folder = Path(trainer.default_root_dir, "coordcbam")
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "a.png")
        picture = Picture(image="a.jpg", block=BLOCK, stage="after", file="a.png")
        write_pictures(folder, [picture])


def fit(folder: Path, logger: Any, probe: Any = PROBE, module: Any = None) -> Any:
    data = TensorDataset(torch.randn(4 * STEPS, 3, SIDE, SIDE), torch.arange(4 * STEPS) % 4)
    module = module or Classifier()
    trainer = lightning.Trainer(
        callbacks=[CoordCBAMCallback(every=1, out_dir=folder, probe=probe), Painted()],
        logger=logger,
        accelerator="cpu",
        max_epochs=EPOCHS,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=4))
    return module


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = back_ends.TensorBoardLogger(tmp_path / "board")
    fit(tmp_path, logger)
    counts = logged.board_counts(Path(logger.log_dir))
    assert counts == {name: [(STEPS, n), (2 * STEPS, n)] for name, n in COUNTS.items()}
    (image,) = logged.board(Path(logger.log_dir)).Images(PICTURE)
    assert (image.step, image.width, image.height) == (EPOCHS * STEPS, 6, 4)


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    # Not WandbLogger(offline=True): it sets a variable that W&B reads once a process.
    settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
    run = wandb.init(mode="offline", dir=tmp_path, project="t", settings=settings)
    fit(tmp_path, back_ends.WandbLogger(experiment=run))
    run.finish()
    for name, count in COUNTS.items():
        series = logged.wandb_series(tmp_path, "trainer/global_step", name)
        told = [(step, sum(value["values"])) for step, value in series]
        assert told == [(STEPS, count), (2 * STEPS, count)]
    ((step, value),) = logged.wandb_series(tmp_path, "trainer/global_step", PICTURE)
    assert (step, value["_type"]) == (EPOCHS * STEPS, "image-file")


def test_mlflow_gets_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("COMET_DISABLE_AUTO_LOGGING", "1")
    uri = f"file:{tmp_path / 'mlruns'}"
    logger = back_ends.MLFlowLogger("t", tracking_uri=uri)
    fit(tmp_path, logger)
    steps = [s for s, _ in logged.mlflow_series(uri, logger.run_id, f"coordcbam/{BLOCK}/alpha_eff")]
    assert steps == [1, 2, 3, 4, 5, 6]
    (kept,) = mlflow.MlflowClient(uri).list_artifacts(logger.run_id, f"{PICTURE}/{EPOCHS * STEPS}")
    assert Path(kept.path).name == "a.png"


def test_comet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comet = pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_DISABLE_AUTO_LOGGING", "1")  # which Lightning sets for good
    logger = back_ends.CometLogger(online=False, project="t")
    # That one is disabled: Lightning takes "not online" for it.
    logger._experiment = comet.OfflineExperiment(offline_directory=str(tmp_path / "comet"))
    fit(tmp_path, logger)
    logger.experiment.end()
    counts = logged.comet_counts(tmp_path / "comet")
    assert counts == {name: [count] * EPOCHS for name, count in COUNTS.items()}
    (image,) = logged.comet_uploads(tmp_path / "comet", "visualization")
    assert image["step"] == EPOCHS * STEPS


def test_the_probe_is_the_modules_own_example(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    module = Classifier()
    module.example_input_array = PROBE[:1]
    logger = back_ends.TensorBoardLogger(tmp_path / "board")
    fit(tmp_path, logger, probe=None, module=module)
    counts = logged.board_counts(Path(logger.log_dir))
    assert [n for _, n in counts[f"coordcbam/{BLOCK}/channel_gates"]] == [4, 4]


def test_a_training_is_the_same_with_histograms(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    states = []
    for name, probe in (("with", PROBE), ("without", None)):
        lightning.seed_everything(0, verbose=False)
        logger = back_ends.TensorBoardLogger(tmp_path / name)
        states.append(fit(tmp_path / name, logger, probe=probe).state_dict())
        assert bool(logged.board_counts(Path(logger.log_dir))) is (probe is not None)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_logger_that_cannot_be_reached_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(logger: Any) -> Any:
        raise RuntimeError("of another release")

    monkeypatch.setitem(cc.hosts.lightning._BACK_ENDS, "CSVLogger", refuses)
    with pytest.warns(UserWarning, match="CSVLogger gets no histograms .*: of another release"):
        fit(tmp_path, back_ends.CSVLogger(tmp_path))
    assert (tmp_path / "coordcbam" / "report.html").exists()
