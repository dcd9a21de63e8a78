"""A whole network with blocks and without: what is added, by a host that costs nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from coordcbam import kernels
from coordcbam.bench import Case, Contender, Detector, Length
from coordcbam.bench import detector as room
from coordcbam.bench.timing import Call
from coordcbam.block import BlockConfig

CASE = Case(size=(1, 3, 8, 8))


class Network(nn.Module):
    def __init__(self, config: BlockConfig | None, log: list[tuple[object, str]]) -> None:
        super().__init__()
        self.config, self.log = config, log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.log.append((self.config and self.config.name, kernels.chosen()))
        return x


def test_added_is_the_median_of_differences_in_a_round(few: list[Contender]) -> None:
    times = {
        "without blocks": [1e-3, 5e-3, 2e-3],
        "coordcbam step2": [2e-3, 6e-3, 9e-3],
        "notebook step2": [5e-3, 8e-3, 6e-3],
    }
    rows = {row.contender: row for row in room.added_rows("yolo eager", CASE, times, few)}
    assert [row.value for row in rows.values()] == pytest.approx([0.0, 1000.0, 4000.0])
    assert rows["notebook step2"].kernel == "plain"
    assert rows["without blocks"].kernel is None
    assert rows["coordcbam step2"].times.p50 == pytest.approx(6000.0)
    assert {row.unit for row in rows.values()} == {"us added"}


def test_eager(few: list[Contender], short: Length) -> None:
    log: list[tuple[object, str]] = []

    def host(config: BlockConfig | None) -> Detector:
        return Detector(Network(config, log), lambda folder: folder)

    rows = room.eager(host, CASE, few, short)
    assert [row.contender for row in rows] == [
        "without blocks",
        "coordcbam step2",
        "notebook step2",
    ]
    assert {("step2", "algebra"), ("step2", "plain")} <= set(log)
    assert sum(name is None for name, _ in log) == short.warm_up + short.least


def test_exported_in_the_kernel_of_each(
    few: list[Contender], short: Length, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[object, str]] = []

    def host(config: BlockConfig | None) -> Detector:
        def export(folder: Path) -> Path:
            assert folder.is_dir()
            assert not list(folder.iterdir())
            log.append((config and config.name, kernels.chosen()))
            return folder / "model.onnx"

        return Detector(nn.Identity(), export)

    monkeypatch.setattr(room, "session", lambda path, x: Call(lambda: None))
    before = kernels.chosen()
    rows = room.onnx(host, CASE, few, short)
    # The oracle's export would be the same file: a host exports the inference form.
    assert log == [(None, before), ("step2", "algebra")]
    assert {row.mode for row in rows} == {"yolo onnx"}
    assert kernels.chosen() == before
