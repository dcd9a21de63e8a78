"""Every stock model file, with blocks by both routes: built, and trained for a step."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics

import coordcbam as cc
from _support.yolo_batch import step
from coordcbam.hosts.ultralytics import YOLO, write_model

STOCK = Path(ultralytics.__file__).parent / "cfg" / "models"
SCALED = re.compile(r"yolo(v8|11|12|26)\.yaml")  # at all of their scales
DOWNLOADS = ("resnet",)  # their backbones are torchvision's, with its weights


def configurations() -> list[str]:
    names = sorted(path.name for path in STOCK.rglob("*.yaml"))
    found = []
    for name in names:
        if any(word in name for word in DOWNLOADS) and not name.startswith("yolov8-rtdetr"):
            continue
        match = SCALED.fullmatch(name)
        scales = "nsmlx" if match else ""
        found += [f"yolo{match[1]}{scale}.yaml" for scale in scales] if match else [named(name)]
    return found


def named(name: str) -> str:
    """The smallest scale of a file that has several, by name."""
    return re.sub(
        r"^(yolo(?:e-)?v?\d+|yoloe-11|yoloe-26|yoloe-v8)(-.*)?\.yaml$", r"\1n\2.yaml", name
    )


def trained_a_step(model: Any) -> int:
    """Blocks that took part in a step of the network's own loss; World's needs texts, too."""
    network = model.model
    found = cc.blocks(network)
    with_prompts = "World" in type(network).__name__
    loss = generic_step(network) if with_prompts else step(network, model.task)
    assert math.isfinite(loss)
    assert all(block.updates >= 1 for _, block in found)
    # Of zero in a fresh YOLOE, whose prompts are zero.
    assert all(block.ca.fc2.weight.grad.isfinite().all() for _, block in found)
    return len(found)


def generic_step(network: Any) -> float:
    """A step towards outputs of zero."""
    network.train()
    pending, total = [network(torch.rand(2, 3, 128, 128))], torch.zeros(())
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor) and value.requires_grad:
            total = total + value.float().square().mean()
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, (list, tuple)):
            pending += value
    total.backward()
    cc.commit_(network)
    return total.item()


@pytest.mark.parametrize("name", configurations())
def test_rows_and_hook(name: str, tmp_path: Path, counted: Any) -> None:
    counted("configurations built and stepped, both routes")
    place = "2" if "-cls" in name else "neck"
    model = YOLO(name)
    out = tmp_path / name.replace(".yaml", "-coordcbam.yaml")
    planned = write_model(model, out, place)
    assert trained_a_step(YOLO(out)) == len(planned.rows)
    done = model.insert(place)
    assert done.kept == done.total
    assert trained_a_step(model) == len(planned.rows)
