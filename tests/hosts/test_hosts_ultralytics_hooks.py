"""What Ultralytics' own trainer and builders do for the blocks, hook by hook, without a training."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.engine import trainer as engine
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn import tasks
from ultralytics.utils.torch_utils import ModelEMA

import coordcbam as cc
from coordcbam.hosts import ultralytics as host
from coordcbam.hosts.ultralytics import YOLO
from coordcbam.hosts.yolo import saving, watching
from coordcbam.insert import scalars

LEARNING = cc.BlockConfig.step3(learnable_alpha=True, learnable_temperature=True)


def inserted(at: str = "P3", config: cc.BlockConfig | None = None) -> Any:
    """The network of a yolo11n with blocks."""
    model = YOLO("yolo11n.yaml")
    model.insert(at, config)
    return model.model


def trainer_of(network: Any, **more: Any) -> SimpleNamespace:
    """As much of a trainer as its hooks read."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    device = torch.device("cpu")
    return SimpleNamespace(model=network, optimizer=optimizer, scaler=scaler, device=device, **more)


def trained_batch(network: Any) -> None:
    """One micro-batch with gradients, through the blocks alone."""
    for _, block in cc.blocks(network):
        block.train()
        block(torch.randn(2, block.channels, 4, 4)).sum().backward()


def test_an_optimizer_step_closes_the_blocks_step_and_the_average_model_gets_the_numbers() -> None:
    network = inserted()
    ema = ModelEMA(network)
    ((_, block),) = cc.blocks(network)
    ((_, averaged),) = cc.blocks(ema.ema)
    torch.nn.init.normal_(block.ca.fc2.bias, -3.0)  # a block that suppresses: the average moves
    for micro_batches in (1, 3):
        for _ in range(micro_batches):
            trained_batch(network)
        BaseTrainer.optimizer_step(trainer_of(network, ema=ema))
    assert block.updates == averaged.updates == 2
    assert block.r_ema < 0.95
    assert torch.equal(averaged.r_ema, block.r_ema)


def test_a_trainer_without_an_average_model_steps_too() -> None:
    network = inserted()
    trained_batch(network)
    BaseTrainer.optimizer_step(trainer_of(network, ema=None))
    assert cc.blocks(network)[0][1].updates == 1


def test_batches_are_recorded_and_only_the_optimizers_step_commits(tmp_path: Path) -> None:
    network = inserted()
    args = SimpleNamespace(model="yolo11n.yaml", data="digits")
    loader = range(4)
    trainer = trainer_of(network, ema=None, args=args, train_loader=loader, save_dir=tmp_path)
    trainer.start_epoch = trainer.epoch = 0
    trainer.coordcbam_back_ends = dict
    watching.start(trainer)
    for _ in range(2):
        trained_batch(network)
        watching.batch_end(trainer)
    ((_, block),) = cc.blocks(network)
    assert block.updates == 0
    BaseTrainer.optimizer_step(trainer)
    assert block.updates == 1
    watching.teardown(trainer)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "MuSGD"])
def test_the_optimizer_never_decays_the_blocks_scalars(name: str) -> None:
    network = inserted(config=LEARNING)
    trainer = SimpleNamespace(args=SimpleNamespace(), data={})
    try:
        optimizer = BaseTrainer.build_optimizer(trainer, network, name=name, decay=0.1)
    except NotImplementedError:
        pytest.skip(f"no {name} in this Ultralytics")
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    ours = {id(p) for p in scalars(network)}
    assert len(ours) == 4
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {decays[scalar] for scalar in ours} == {0.0}
    assert 0.1 in decays.values()


def test_a_network_built_from_the_recipe_has_the_blocks_of_every_insertion() -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    model.insert("P5", cc.BlockConfig.step2())
    built = tasks.DetectionModel(copy.deepcopy(model.model.yaml), verbose=False)
    names = {path: block.config.name for path, block in cc.blocks(built)}
    assert names == {"model.16.ccattn": "step3", "model.22.ccattn": "step2"}
    built.load(model.model, verbose=False)


def test_weights_with_blocks_are_not_loaded_without_them() -> None:
    plain = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    with pytest.raises(host.LostBlocksError, match=r"blocks at model\.16, this network has not"):
        plain.load(inserted(), verbose=False)


# A kill leaves the old checkpoint or the new one; a failed save is as good as a kill.


def saving_trainer(folder: Path) -> SimpleNamespace:
    """As much of a trainer as a save reads."""
    return SimpleNamespace(wdir=folder, last=folder / "last.pt", best=folder / "best.pt")


def test_a_save_that_stops_half_way_leaves_the_old_files(tmp_path: Path) -> None:
    trainer = saving_trainer(tmp_path)
    trainer.last.write_text("old")
    with pytest.raises(InterruptedError), saving.aside(trainer):
        trainer.last.write_text("ne")
        raise InterruptedError
    assert trainer.last == tmp_path / "last.pt"
    assert trainer.last.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_the_checkpoint_that_is_resumed_gets_its_name_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = saving_trainer(tmp_path)
    named: list[str] = []
    rename = saving.rename
    monkeypatch.setattr(saving, "rename", lambda f, t: (named.append(t.name), rename(f, t)))
    with saving.aside(trainer):
        for file in (trainer.last, trainer.best, trainer.wdir / "zeroth.pt"):
            file.write_text("new")
    assert named[-1] == "last.pt"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "last.pt", "zeroth.pt"]


def test_stripping_replaces_a_checkpoint_at_once(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    torch.save({"model": nn.Linear(1, 1), "epoch": 3, "train_args": {}}, path)
    before = path.read_bytes()
    with path.open("rb") as opened_before:
        engine.strip_optimizer(path)
        assert opened_before.read() == before
    assert torch.load(path, weights_only=False)["epoch"] == -1
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


def test_a_run_can_be_resumed_until_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stripping(self: Any) -> None:
        self.last.write_text("stripped")

    monkeypatch.setattr(BaseTrainer, "final_eval", stripping)
    trainer = host.Monitored.__new__(host.Monitored)
    trainer.wdir, trainer.last = tmp_path, tmp_path / "last.pt"
    trainer.last.write_text("whole")
    trainer.final_eval()
    assert (tmp_path / "last.pt").read_text() == "whole"
    watching.end(trainer)
    assert trainer.last == tmp_path / "last.pt"
    assert trainer.last.read_text() == "stripped"
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("call", ["validate", "save_model"])
def test_what_is_validated_or_saved_has_the_live_average(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone: with val=False an epoch is saved that was not validated."""
    network = inserted(config=cc.BlockConfig.step2())  # its average moves between steps, too
    trainer = host.Monitored.__new__(host.Monitored)
    vars(trainer).update(vars(saving_trainer(tmp_path)), model=network, ema=ModelEMA(network))
    seen: list[float] = []

    def noting(self: Any) -> None:
        seen.extend(block.r_ema.item() for _, block in cc.blocks(self.ema.ema))

    monkeypatch.setattr(BaseTrainer, call, noting)
    trained_batch(network)
    getattr(trainer, call)()
    ((_, block),) = cc.blocks(network)
    assert seen == [block.r_ema.item()]
    assert seen != [1.0]
