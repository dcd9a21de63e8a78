"""Lightning: steps are the optimizer's, checkpoints hold the blocks' state, records are whole."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

import lightning.pytorch as lightning

import coordcbam as cc
from coordcbam.hosts.lightning import CoordCBAMCallback
from coordcbam.hosts.watched import LOGGED, LostBlocksError
from coordcbam.records import read_run

# What Lightning says of small data, of few cores and of its own calls is not about us.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".*LeafSpec",
        ".*does not have many workers",
        ".*number of training batches",
    )
]

BATCHES, ACCUMULATED, EPOCHS = 5, 2, 2
STEPS = 3  # an epoch: the last of five batches closes a step of its own
BLOCKS = ("net.1", "net.3")


class Classifier(lightning.LightningModule):
    """Two convolutions with a block behind each, and a metric of each kind."""

    def __init__(self, fails_at: int | None = None, decay: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
        )
        # Gates as drawn, which act from the first step on.
        config = cc.BlockConfig.step3().replace(init="notebook")
        cc.insert_(self, BLOCKS, config=config, inputs=torch.zeros(1, 3, 12, 12))
        self.fails_at, self.decay = fails_at, decay
        self.validated: set[int] = set()  # after how many updates

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == self.fails_at:
            raise InterruptedError("stopped by the test")
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.update(updates for _, _, updates, _ in state(self))
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(cc.parameter_groups(self, self.decay), lr=0.01)


def loader() -> DataLoader[Any]:
    """Five batches of four."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4 * BATCHES, 3, 12, 12, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(len(images)) % 2), batch_size=4)


def fit(
    folder: Path, module: Any, callback: Any, *, resume: Path | None = None, **options: Any
) -> Any:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": EPOCHS,
        "accumulate_grad_batches": ACCUMULATED,
        "default_root_dir": folder,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(callbacks=callback, **{**settings, **options})
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return trainer


def state(module: Any) -> list[tuple[str, float, int, int]]:
    return [(p, float(b.r_ema), int(b.updates), int(b.skipped)) for p, b in cc.blocks(module)]


class Noted(lightning.Callback):
    """What this process knows at the end, in a file of its own."""

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        ours = {k: float(v) for k, v in trainer.callback_metrics.items() if "coordcbam/" in k}
        path = Path(trainer.default_root_dir, f"{trainer.global_rank}.json")
        path.write_text(json.dumps([state(pl_module), ours]), encoding="utf-8")


def test_a_step_closes_with_the_optimizers_and_not_with_a_batch(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    step = cc.Monitor.step

    def counted(self: Any, epoch: int | None = None) -> Any:
        closed.append(self.model.trainer.global_step)
        return step(self, epoch)

    monkeypatch.setattr(cc.Monitor, "step", counted)
    module = Classifier()
    trainer = fit(tmp_path, module, CoordCBAMCallback(every=2))
    assert trainer.global_step == EPOCHS * STEPS
    assert closed == list(range(1, EPOCHS * STEPS + 1))  # each one right after its step
    assert calls.train == EPOCHS * BATCHES * len(BLOCKS)
    assert calls.eval > 0
    assert [(path.removesuffix(".ccattn"), updates) for path, _, updates, _ in state(module)] == [
        (path, EPOCHS * STEPS) for path in BLOCKS
    ]
    assert all(r_ema != 1.0 for _, r_ema, _, _ in state(module))


def test_the_records_and_the_report(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Classifier(), CoordCBAMCallback(every=2))
    run = read_run(tmp_path)
    assert (run.info.status, run.info.host, run.problems) == ("finished", "lightning", ())
    assert run.info.versions["lightning"] == lightning.__version__
    assert [place.path for place in run.info.places] == list(BLOCKS)
    assert run.series("net.1", "r_ema")[0] == [0, 2, 4]
    with (tmp_path / "coordcbam" / "monitor.csv").open() as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file) if row["block"] == "net.1"]
    assert epochs == [0, 0, 1]
    assert [row["epoch"] for row in run.metrics] == [0, 1]
    assert set(run.metrics[0]) == {"epoch", "train/loss", "val/loss"}
    assert run.metrics[-1]["val/loss"] == pytest.approx(float(trainer.callback_metrics["val/loss"]))
    assert set(run.info.result) == {"train/loss", "val/loss"}
    assert (tmp_path / "coordcbam" / "report.html").exists()


def test_an_epoch_without_validation_records_none(tmp_path: Path) -> None:
    fit(tmp_path, Classifier(), CoordCBAMCallback(), max_epochs=3, check_val_every_n_epoch=2)
    assert ["val/loss" in row for row in read_run(tmp_path).metrics] == [False, True, False]


def test_loggers_get_every_reading_and_callbacks_the_epochs(tmp_path: Path) -> None:
    logger = lightning.loggers.CSVLogger(tmp_path, name="csv")
    module = Classifier()
    trainer = fit(tmp_path, module, CoordCBAMCallback(every=2), logger=logger)
    folder = Path(trainer.log_dir)
    assert (folder / "coordcbam" / "run.json").exists()
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["coordcbam/net.1/r_ema"]]
    assert [int(row["step"]) for row in rows] == [1, 3, 5]
    run = read_run(folder)
    for name in LOGGED:
        logged = [float(row[f"coordcbam/net.1/{name}"]) for row in rows]
        assert logged == pytest.approx(run.series("net.1", name)[1])
        assert f"coordcbam/net.3/{name}" in trainer.callback_metrics


def test_after_an_exception_the_run_has_failed(tmp_path: Path) -> None:
    callback = CoordCBAMCallback(every=1)
    with pytest.raises(InterruptedError):
        fit(tmp_path, Classifier(fails_at=4), callback)
    run = read_run(tmp_path)
    assert (run.info.status, run.problems) == ("failed", ())
    assert run.series("net.1", "r_ema")[0] == [0, 1, 2, 3]
    assert [row["epoch"] for row in run.metrics] == [0]
    assert callback.monitor is None  # the files are closed


def test_a_resumed_run_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    torch.manual_seed(3)
    one = Classifier()
    fit(whole, one, CoordCBAMCallback(every=1))

    torch.manual_seed(3)
    first = Classifier()
    trainer = fit(halves, first, CoordCBAMCallback(every=1), max_epochs=1)
    trainer.save_checkpoint(halves / "half.ckpt")
    saved = torch.load(halves / "half.ckpt", weights_only=False)
    assert int(saved["state_dict"]["net.1.ccattn.updates"]) == STEPS
    assert not any("CBAM" in str(key) for key in saved["callbacks"])  # all is in the module's state

    torch.manual_seed(4)  # so that nothing but the checkpoint can make it equal
    second = Classifier()
    fit(halves, second, CoordCBAMCallback(every=1), resume=halves / "half.ckpt")
    assert state(second) == state(one)
    for key, value in one.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key
    run = read_run(halves)  # continued in the same folder
    assert run.series("net.1", "r_ema")[0] == list(range(EPOCHS * STEPS))
    assert run.series("net.1", "r_ema") == read_run(whole).series("net.1", "r_ema")
    assert (run.info.status, [row["epoch"] for row in run.metrics]) == ("finished", [0, 1])


@pytest.mark.skipif(
    not hasattr(lightning.callbacks, "EMAWeightAveraging"), reason="this Lightning averages nothing"
)
@pytest.mark.parametrize("last", [True, False])
def test_averaged_weights_have_the_live_averages(tmp_path: Path, last: bool) -> None:
    torch.manual_seed(3)
    plain = Classifier()
    fit(tmp_path / "plain", plain, CoordCBAMCallback())
    torch.manual_seed(3)
    averaged = Classifier()
    ours, theirs = CoordCBAMCallback(), lightning.callbacks.EMAWeightAveraging(decay=0.5)
    fit(
        tmp_path / "averaged",
        averaged,
        [theirs, ours] if last else [ours, theirs],
        enable_checkpointing=True,
    )
    assert averaged.validated == plain.validated == {0, STEPS, 2 * STEPS}  # 0 in the sanity check
    assert state(averaged) == state(plain)
    assert not torch.equal(averaged.net[0].weight, plain.net[0].weight)  # these are averaged
    (path,) = (tmp_path / "averaged").rglob("*.ckpt")
    saved = torch.load(path, weights_only=False)["state_dict"]
    assert torch.equal(saved["net.1.ccattn.r_ema"], plain.net[1].ccattn.r_ema)


@pytest.mark.long
def test_of_two_processes_one_writes_and_both_know_the_same(
    tmp_path: Path, fresh_process: Any
) -> None:
    fresh_process(
        """
        import os, sys
        from pathlib import Path
        os.environ["GLOO_SOCKET_IFNAME"] = {"linux": "lo", "darwin": "lo0"}.get(sys.platform, "")
        sys.path.insert(0, sys.argv[1])
        from test_hosts_lightning import Classifier, CoordCBAMCallback, Noted, fit
        callbacks = [CoordCBAMCallback(every=1), Noted()]
        # A validation would give both processes the readings of the first.
        two = {"devices": 2, "strategy": "ddp_spawn", "limit_val_batches": 0}
        fit(Path(sys.argv[2]), Classifier(), callbacks, **two)
        """,
        *(Path(__file__).parent, tmp_path),
    )
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    steps = EPOCHS * 2  # 20 images are 3 batches a process
    assert [updates for _, _, updates, _ in one[0]] == [steps] * len(BLOCKS)
    assert set(one[1]) == {f"coordcbam/{path}/{name}" for path in BLOCKS for name in LOGGED}
    run = read_run(tmp_path)
    assert (run.info.status, run.problems) == ("finished", ())
    with (tmp_path / "coordcbam" / "monitor.csv").open() as file:
        written = [int(row["step"]) for row in csv.DictReader(file) if row["block"] == "net.1"]
    assert written == list(range(steps))
    assert [row["epoch"] for row in run.metrics] == list(range(EPOCHS))


def test_out_dir_is_where_the_records_go(tmp_path: Path) -> None:
    fit(tmp_path, Classifier(), CoordCBAMCallback(out_dir=tmp_path / "mine"), max_epochs=1)
    assert (tmp_path / "mine" / "coordcbam" / "run.json").exists()
    assert not (tmp_path / "coordcbam").exists()


def test_several_optimizer_steps_in_a_batch_close_as_many(tmp_path: Path) -> None:
    class Manual(Classifier):
        automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> None:
            optimizer = self.optimizers()
            for _ in range(2):
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

    module = Manual()
    trainer = fit(
        tmp_path, module, CoordCBAMCallback(every=1), accumulate_grad_batches=1, max_epochs=1
    )
    assert trainer.global_step == 2 * BATCHES
    assert read_run(tmp_path).series("net.1", "r_ema")[0] == list(range(2 * BATCHES))
    # Both forwards of a batch are in the first of its two steps.
    assert {updates for _, _, updates, _ in state(module)} == {BATCHES}


def test_a_block_that_never_ran_is_an_error(tmp_path: Path) -> None:
    module = Classifier()
    module.spare = nn.Sequential(nn.Conv2d(3, 8, 3))
    module.spare.block = cc.CoordCBAM(8)
    with pytest.raises(LostBlocksError, match=r"the block at spare\.block never ran"):
        fit(tmp_path, module, CoordCBAMCallback())
    assert read_run(tmp_path).info.status == "failed"


def test_a_module_without_blocks_is_refused(tmp_path: Path) -> None:
    module = Classifier()
    cc.remove_(module)
    with pytest.raises(ValueError, match="the model has no blocks"):
        fit(tmp_path, module, CoordCBAMCallback())


def test_decayed_scalars_are_warned_of(tmp_path: Path) -> None:
    class Decaying(Classifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)

    with pytest.warns(UserWarning, match=r"weight decay pulls \d+ learnable scalars"):
        fit(tmp_path / "decaying", Decaying(), CoordCBAMCallback(), max_epochs=1)


@pytest.mark.filterwarnings("error:weight decay pulls")
def test_parameter_groups_are_not_warned_of(tmp_path: Path) -> None:
    fit(tmp_path, Classifier(decay=0.1), CoordCBAMCallback(), max_epochs=1)


def test_it_is_of_the_package_that_is_loaded(fresh_process: Any) -> None:
    pytest.importorskip("pytorch_lightning")
    said = fresh_process(
        """
        import pytorch_lightning
        from coordcbam.hosts.lightning import CoordCBAMCallback
        print(issubclass(CoordCBAMCallback, pytorch_lightning.Callback))
        """
    )
    assert said.split() == ["True"]


def test_without_lightning_one_line_names_the_extra(fresh_process: Any) -> None:
    error = fresh_process(
        """
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: (
            None if name in ("lightning", "pytorch_lightning") else find(name, *rest)
        )
        import coordcbam.hosts.lightning
        """,
        expect=1,
    )
    assert error.splitlines()[-1] == (
        "coordcbam._support.errors.MissingExtraError: CoordCBAMCallback needs 'lightning': "
        'pip install "coordcbam[lightning]"'
    )
