"""LibreYOLO, a detector library under the MIT licence: its network in a loop, and its own trainer."""

import json
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from _support.shaken import shaken

pytest.importorskip("libreyolo", reason="LibreYOLO is not installed: pip install libreyolo")

from libreyolo import LibreYOLO9

import coordcbam as cc
from coordcbam.records import read_run

STEPS, SIZE = 3, 64
PLACES: dict[str, Any] = {
    "glob": ["neck.elan_up2", "neck.elan_down?"],
    "predicate": lambda path, layer: type(layer).__name__ == "RepNCSPELAN" and path in {*LEVELS},
}
LEVELS = ["neck.elan_up2", "neck.elan_down1", "neck.elan_down2"]  # what its head reads


def detector(seed: int = 0) -> Any:
    """The smallest YOLOv9 with random weights."""
    torch.manual_seed(seed)
    return LibreYOLO9(None, size="t", nb_classes=10, device="cpu")


def insert(network: Any, at: Any = LEVELS) -> cc.Insertion:
    return cc.insert_(network, at, inputs=torch.zeros(1, 3, SIZE, SIZE))


def images() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([[[0.0, 6.0, 6.0, 40.0, 40.0]], [[1.0, 20.0, 20.0, 60.0, 60.0]]])


@torch.no_grad()
def output(network: Any) -> torch.Tensor:
    predictions: torch.Tensor = network.eval()(images())["predictions"]
    return predictions.clone()


def updates(network: Any) -> set[int]:
    return {int(block.updates) for _, block in cc.blocks(network)}


@pytest.mark.parametrize("at", PLACES.values(), ids=PLACES)
@pytest.mark.long
def test_its_network_in_a_loop_of_ones_own(
    at: Any, tmp_path: Path, calls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = detector()
    network = model.model
    state = {key: value.clone() for key, value in network.state_dict().items()}
    before = output(network)
    inputs = torch.zeros(1, 3, SIZE, SIZE)
    assert len(cc.plan(network, "neck.elan_down*", inputs=inputs).rows) > 2  # a star matches dots
    done = insert(network, at)
    assert {row.path for row in done.plan.rows} == {*LEVELS}
    assert (done.kept, done.total) == (len(state), len(state))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(output(network), before)

    calls.train = calls.eval = 0
    network.train()
    optimizer = torch.optim.AdamW(cc.parameter_groups(network, 0.01), lr=1e-3)
    with cc.Monitor(network, tmp_path, every=1) as monitor:
        for _ in range(STEPS):
            loss = network(images(), targets=TARGETS)["total_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(epoch=0)
            assert loss.isfinite()
    assert calls.train == STEPS * len(LEVELS)
    assert {(int(b.updates), int(b.skipped)) for _, b in cc.blocks(network)} == {(STEPS, 0)}
    run = read_run(tmp_path)
    assert (run.info.status, run.problems) == ("finished", ())
    assert all(run.series(path, "rho")[0] == list(range(STEPS)) for path in LEVELS)

    for _, block in cc.blocks(network):
        shaken(block)
    with_blocks = output(network)
    assert calls.eval == len(LEVELS)
    with cc.bypass(network):
        assert not torch.equal(output(network), with_blocks)
    model.save(str(tmp_path / "saved.pt"))  # LibreYOLO's own file, with the blocks' state
    other = detector(seed=5)
    cc.insert_(other.model, json.loads(json.dumps(done.spec)))
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    other.model.load_state_dict(saved["model"])
    assert torch.equal(output(other.model), with_blocks)
    # LibreYOLO builds its network from the file's size, and leaves out what it does not know.
    bare = LibreYOLO9(str(tmp_path / "saved.pt"), size="t", nb_classes=10, device="cpu")
    assert cc.blocks(bare.model) == []
    assert "unexpected key" in caplog.text
    assert metadata("libreyolo")["License-Expression"] == "MIT"


def test_its_own_trainer_keeps_the_blocks(
    small_data: Path, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = detector()
    done = insert(model.model)
    closed = 0
    monitor = cc.Monitor(model.model, tmp_path / "run", every=1)

    def close_step(*_: Any) -> None:
        nonlocal closed
        monitor.step()
        closed += 1

    handle = register_optimizer_step_post_hook(close_step)
    calls.train = calls.eval = 0
    try:
        result = model.train(
            data=str(small_data),
            epochs=2,
            batch=8,
            imgsz=SIZE,
            device="cpu",
            workers=0,
            project=str(tmp_path),
            name="libreyolo",
            amp=False,
        )
    finally:
        handle.remove()
        monitor.close()
    assert closed == 2 * 2  # 16 images in batches of 8
    assert calls.train == closed * len(LEVELS)
    assert calls.eval >= 2 * len(LEVELS)
    run = read_run(tmp_path / "run")
    assert all(run.series(path, "rho")[0] == list(range(closed)) for path in LEVELS)
    saved = torch.load(result["last_checkpoint"], weights_only=False)
    averaged, live = detector(seed=5).model, detector(seed=6).model
    for network, key in ((averaged, "model"), (live, "train_model")):
        cc.insert_(network, done.spec)
        # The trainer's files hold an auxiliary head beside the network.
        assert not network.load_state_dict(saved[key], strict=False).missing_keys
    assert updates(averaged) == {0}  # an average of a counter
    assert updates(live) == {closed}
    cc.copy_monitor_state_(live, averaged)
    assert updates(averaged) == {closed}
