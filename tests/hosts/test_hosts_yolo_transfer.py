"""Weights of one task into a network of another: every tensor that fits arrives, and is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from torch import nn

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.hosts.ultralytics import YOLO, load_pretrained, write_model


@pytest.mark.parametrize("task", ["seg", "pose", "obb"])
@pytest.mark.parametrize("route", ["hooks", "rows"])
def test_a_detector_into_another_task(task: str, route: str, tmp_path: Path) -> None:
    source = YOLO("yolo11n.yaml")
    with torch.no_grad():
        for parameter in source.model.parameters():
            parameter.normal_()
    if route == "rows":
        file = tmp_path / f"yolo11n-{task}.yaml"
        write_model(YOLO(f"yolo11n-{task}.yaml"), file, "P3")
        target: Any = YOLO(file)
    else:
        target = YOLO(f"yolo11n-{task}.yaml")
        target.insert("P3")
    bare = YOLO(f"yolo11n-{task}.yaml")
    bare.load(_saved(source, tmp_path))
    plain = bare.model.state_dict()
    fits = sum(
        torch.equal(plain[key], value)
        for key, value in source.model.state_dict().items()
        if key in plain
    )
    told = load_pretrained(target, source.model)
    assert fits > 300
    assert (told.kept, told.wrong) == (fits, 0)


def _saved(model: Any, folder: Path) -> str:
    """A checkpoint in full precision."""
    path = folder / "source.pt"
    torch.save({"model": model.model, "train_args": {}}, path)
    return str(path)


@pytest.mark.parametrize("kind", ["ours", "theirs", "checkpoint", "path"])
def test_weights_of_every_kind(kind: str, tmp_path: Path) -> None:
    source = (ultralytics.YOLO if kind == "theirs" else YOLO)("yolo11n.yaml")
    kinds = {"checkpoint": {"ema": None, "model": source.model}, "path": _saved(source, tmp_path)}
    told = load_pretrained(YOLO("yolo11n.yaml"), kinds.get(kind, source))
    assert told.kept == told.total > 400


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"weight": torch.zeros(400)}, "weights={'weight': .*: expected a checkpoint's path, a YO"),
        (3, "weights=3: expected a checkpoint's path"),
        ({"model": {"a": 1}}, "a state alone goes into a network by load_state_dict"),
        (nn.Conv2d(3, 4, 1), "weights=Conv2d: not one of 2 tensors fits; is it this model"),
    ],
)
def test_what_are_no_weights_is_one_line(weights: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_pretrained(YOLO("yolo11n.yaml"), weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_reset_weights_leaves_fresh_blocks(kind: str, tmp_path: Path) -> None:
    made = YOLO("yolo11n.yaml")
    made.insert("P3,P4")
    made.save(tmp_path / "with.pt")
    model = (ultralytics.YOLO if kind == "theirs" else YOLO)(tmp_path / "with.pt")
    x = torch.randn(2, 64, 8, 8)
    (_, block), _ = cc.blocks(model.model)
    block.float().r_ema.fill_(0.3)
    nn.init.normal_(block.ca.fc2.weight)
    model.reset_weights()
    assert torch.equal(block.eval()(x), x)
    assert block.r_ema.item() == 1.0
