"""The document is strict JSON that explains itself, and the tables fit a terminal."""

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from _support.known_blocks import Half
from coordcbam.preflight import BLOCKS, Preflight, candidates, preflight, table, tables_of
from coordcbam.preflight.result import UNITS
from coordcbam.preflight.verdict import ranked


@pytest.fixture
def found(model: nn.Sequential, batches: list[Any]) -> Preflight:
    return preflight(
        model,
        batches,
        at=["0", "3"],
        blocks=["none", "step3", Half],
        score=lambda m: float(m(batches[0]).abs().mean()),
        seeds=2,
        about={"model": "mine.pt", "score": "mAP50-95(B)"},
    )


def test_the_document_says_what_it_is(found: Preflight) -> None:
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    about = document["about"]
    assert document["format"] == 1
    assert about["model"] == "mine.pt"
    assert about["blocks"] == ["none", "step3", "_support.known_blocks:Half"]
    assert about["places"] == [{"path": "0", "channels": 4}, {"path": "3", "channels": 6}]
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    named = {word for name in UNITS for word in name.split(", ")}
    for rows in (document["rows"], document["alone"], document["ranking"]):
        for row in rows:
            measured = {key for key, value in row.items() if isinstance(value, (float, dict))}
            assert measured <= named
    assert {key for row in document["rows"] for key in row["places"][0]} <= {"path", *named}


def test_what_is_no_number_is_said_so(model: nn.Sequential, batches: list[Any]) -> None:
    def lost(network: nn.Module) -> float:
        return math.nan if hasattr(network[0], "cctrial") else 0.5

    found = preflight(model, batches, at="0", blocks=[Half], score=lost, seeds=1)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["rows"][0]["score"]["mean"] == "nan"
    assert found.rows[0].harms
    assert str(found)


def test_the_tables_fit_eighty_columns(found: Preflight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "WIDTH", 80)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for word in ("mAP50-95(B) without", "step3", "1.00", ".50", "1. 0 Conv2d", found.verdict[:20]):
        assert word in text
    assert len(tables_of(found)) == 4


def test_a_preflight_is_frozen(found: Preflight) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.verdict = ""  # type: ignore[misc]


def test_of_the_default_blocks_absent_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordcbam.insert.foreign.SOURCES", {})
    kept, notes = candidates(BLOCKS)
    assert [each.name for each in kept] == ["none", "step1", "step2", "step3"]
    assert [note.split(":")[0] for note in notes] == ["skipped timm"] * 2 + ["skipped ultralytics"]


def test_a_lost_score_is_the_worst() -> None:
    places = {"a": {"shock": -0.5}, "b": {"shock": math.nan}, "c": {"shock": 0.0}}
    assert ranked(places) == ["b", "a", "c"]
