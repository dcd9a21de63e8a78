"""A torchvision detector, unchanged, with blocks at its pyramid and at its backbone's stages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from _support.shaken import shaken

pytest.importorskip("torchvision")

from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.mobilenetv3 import InvertedResidual

import coordcbam as cc
from coordcbam.records import read_run

STEPS = 3
PLACES: dict[str, Any] = {
    "pyramid": "backbone.fpn.layer_blocks.*",
    "stages": lambda path, layer: (
        isinstance(layer, InvertedResidual) and path.endswith((".6", ".12"))
    ),
}
PATHS = {
    "pyramid": ["backbone.fpn.layer_blocks.0.0", "backbone.fpn.layer_blocks.1.0"],
    "stages": ["backbone.body.6", "backbone.body.12"],
}


def detector(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=96
    )


@pytest.fixture
def images() -> list[torch.Tensor]:
    return list(torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)))


def targets() -> list[dict[str, torch.Tensor]]:
    return [
        {"boxes": torch.tensor([[8.0, 8.0, 48.0, 56.0]]), "labels": torch.tensor([1])},
        {
            "boxes": torch.tensor([[30.0, 20.0, 80.0, 90.0], [4.0, 4.0, 40.0, 30.0]]),
            "labels": torch.tensor([2, 1]),
        },
    ]


@torch.no_grad()
def detections(model: Any, images: list[torch.Tensor]) -> list[torch.Tensor]:
    return [found[name] for found in model.eval()(images) for name in ("boxes", "scores")]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("where", PLACES)
def test_every_tensor_stays_and_a_fresh_block_changes_nothing(
    where: str, images: list[torch.Tensor]
) -> None:
    model = detector()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = detections(model, images)
    done = cc.insert_(model, PLACES[where], inputs=(images,))
    assert [row.path for row in done.plan.rows] == PATHS[where]
    assert (done.kept, done.total) == (len(state), len(state))
    assert len(before[0])  # something is detected
    assert same(detections(model, images), before)
    cc.remove_(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize("where", PLACES)
def test_it_trains_is_watched_and_goes_into_a_fresh_model(
    where: str, images: list[torch.Tensor], calls: Any, tmp_path: Path
) -> None:
    model = detector()
    done = cc.insert_(model, PLACES[where], inputs=(images,))
    optimizer = torch.optim.SGD(cc.parameter_groups(model, 1e-4), lr=0.01)
    calls.train = calls.eval = 0
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    with cc.Monitor(model, tmp_path, every=1) as monitor:
        for _ in range(STEPS):
            loss = sum(model(images, targets()).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(epoch=0)
            assert loss.isfinite()
    assert (calls.train, calls.eval) == (STEPS * len(PATHS[where]), 0)
    for path, block in cc.blocks(model):
        assert (int(block.updates), int(block.skipped)) == (STEPS, 0)
        before = fresh[f"{path}.ca.fc2.weight"]
        assert not torch.equal(block.ca.fc2.weight, before)  # gradients reach the block
    run = read_run(tmp_path)
    assert (run.info.status, run.problems) == ("finished", ())
    assert [place.path for place in run.info.places] == PATHS[where]
    for path in PATHS[where]:
        assert run.series(path, "rho")[0] == list(range(STEPS))

    for _, block in cc.blocks(model):
        shaken(block)
    with_blocks = detections(model, images)
    assert calls.eval == len(PATHS[where])
    with cc.bypass(model):
        assert not same(detections(model, images), with_blocks)
    assert calls.eval == len(PATHS[where])
    assert same(detections(model, images), with_blocks)

    other = detector(seed=5)
    cc.insert_(other, json.loads(json.dumps(done.spec)))
    assert not same(detections(other, images), with_blocks)
    other.load_state_dict(model.state_dict())
    assert same(detections(other, images), with_blocks)
    counters = [(float(b.r_ema), int(b.updates)) for _, b in cc.blocks(model)]
    assert [(float(b.r_ema), int(b.updates)) for _, b in cc.blocks(other)] == counters
