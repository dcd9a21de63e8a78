"""Weights of one task into a network of another: every tensor that fits arrives, and is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch

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
