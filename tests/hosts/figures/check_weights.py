"""Pretrained tensors that find their own layer again, wherever rows were inserted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from coordcbam.hosts.ultralytics import YOLO, load_pretrained, write_model

FAMILIES = ("yolo11n", "yolov8n", "yolo12n", "yolo26n", "yolo11n-seg", "rtdetr-l")


def positions(network: Any) -> dict[str, str]:
    return {
        "in the backbone": "4",
        "behind the backbone": str(len(network.yaml["backbone"]) - 1),
        "before the head": "neck",
        "behind the first layer": "0",
    }


@pytest.mark.parametrize("where", positions(type("", (), {"yaml": {"backbone": [0]}})))
@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_them(family: str, where: str, tmp_path: Path, counted: Any) -> None:
    torch.manual_seed(0)
    source = YOLO(f"{family}.yaml")
    with torch.no_grad():
        for value in source.model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value))
    out = tmp_path / f"{family}-cc.yaml"
    write_model(source, out, positions(source.model)[where])
    told = load_pretrained(YOLO(out), source.model)
    counted("pretrained tensors kept, none from a wrong layer", told)
    assert (told.kept, told.wrong) == (told.total, 0)
