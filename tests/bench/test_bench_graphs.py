"""Graphs: exported in the contender's kernel, run from bound memory, their nodes counted."""

from pathlib import Path

import pytest
import torch
from torch import nn

from coordcbam.bench import Case, Contender, Length, graphs


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2.0


@pytest.mark.parametrize("exporter", ["trace", "dynamo"])
def test_a_known_graph(
    exporter: str,
    case: Case,
    cpu: torch.device,
    short: Length,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in (*graphs.NEEDED, *(["onnxscript"] if exporter == "dynamo" else [])):
        pytest.importorskip(package)
    monkeypatch.setattr(graphs, "exporter", lambda: exporter)
    rows = graphs.onnx(case, [Contender(name="a", build=lambda _: Double())], short)
    copy, timed, nodes = rows
    assert (copy.contender, timed.contender, nodes.contender) == ("copy_", "a", "a")
    assert (timed.mode, nodes.mode, nodes.unit) == ("onnx", "onnx nodes", "nodes")
    assert timed.note == nodes.note == f"{exporter} export"
    assert 2.0 <= nodes.value <= 3.0  # Relu, Mul, and a Constant where it is a node


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "NEEDED", ("json",))
    assert graphs.missing() is None
    monkeypatch.setattr(graphs, "NEEDED", ("json", "package_of_another_world"))
    assert graphs.missing() == "package_of_another_world not installed"


def test_which_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"onnxscript": object()}
    monkeypatch.setattr(graphs.importlib.util, "find_spec", found.get)
    assert graphs.exporter() == "dynamo"
    found.clear()
    assert graphs.exporter() == "trace"
