"""What every watching host does alike: the cost of the blocks goes into the record, or nothing."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.hosts.watched import counted, told
from coordcbam.hosts.yolo import watching
from coordcbam.records import read_run


def test_a_yolos_record_has_what_the_blocks_cost(trained: Path) -> None:
    found = read_run(trained).info.cost
    assert set(found) == {"parameters", "parameters_model", "flops", "flops_model", "imgsz"}
    assert found["imgsz"] == 128
    assert found["parameters"] == sum(place.parameters for place in read_run(trained).info.places)
    assert 0 < found["flops"] < 0.05 * found["flops_model"]


def test_the_image_is_what_is_trained_with() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3))
    network.yaml = {"channels": 1}  # type: ignore[assignment]
    assert watching._image(network, [64, 32]).shape == (1, 1, 64, 64)


def test_what_cannot_be_counted_stops_nothing() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no forward")

    model = nn.Sequential(cc.CoordCBAM(4), Broken()).train()
    assert counted(model, lambda: torch.ones(1, 4, 8, 8)) == {}
    assert all(module.training for module in model.modules())
    assert not any(block.bypassed for _, block in cc.blocks(model))


def test_a_monitor_notes_it(tmp_path: Path) -> None:
    model = nn.Sequential(cc.CoordCBAM(4))
    cost = counted(model, lambda: torch.ones(1, 4, 8, 8))
    assert cost["parameters_model"] == 0
    with cc.Monitor(model, tmp_path, cost=cost):
        pass
    document = json.loads((tmp_path / "coordcbam" / "run.json").read_text(encoding="utf-8"))
    assert document["cost"] == cost
    with pytest.raises(UsageError, match=r"Monitor\.cost=3"):
        cc.Monitor(model, tmp_path, cost=3)  # type: ignore[arg-type]


def test_a_report_that_cannot_be_built_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr("coordcbam.report.build_report", full)
    assert told(tmp_path) == f"coordcbam records in {tmp_path}; no report: no space left on device"
