"""``bench``: a table of ratios, JSON of the same rows, one line per mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordcbam import kernels

QUICK = ("--shapes", "1x16x6x5", "2x16x4x4", "--seconds", "0.001")
OURS = ("coordcbam step3", "coordcbam step2", "notebook step2")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator of the process that tests is left alone."""
    monkeypatch.setattr("coordcbam.cli.bench.keep_memory", lambda: True)


def test_it_prints_tables(call: Callable[..., Any], empty: Path) -> None:
    before = kernels.chosen()
    done = call("bench", *QUICK)
    assert (done.status, done.err) == (0, "")
    for word in ("inference, times copy_", "training, times copy_", "1x16x6x5", "2x16x4x4", *OURS):
        assert word in done.out
    assert "step3 over notebook step2" in done.out
    assert "threads: 1, kernel:" in done.out
    assert kernels.chosen() == before
    assert list(empty.iterdir()) == []


def test_json(call: Callable[..., Any]) -> None:
    done = call("bench", *QUICK, "--layout", "channels_last", "--json")
    assert done.status == 0
    document = json.loads(done.out)
    assert set(document) == {"machine", "versions", "rows", "over", "skipped"}
    rows = document["rows"]
    assert {row["mode"] for row in rows} == {"inference", "training"}
    assert {row["shape"] for row in rows} == {"1x16x6x5", "2x16x4x4"}
    assert {row["layout"] for row in rows} == {"channels_last"}
    assert {row["contender"] for row in rows} >= {"copy_", *OURS}
    assert {row["kernel"] for row in rows if row["contender"] == "notebook step2"} == {"plain"}
    assert all(row["ratio_to_copy"] > 0 for row in rows)
    assert {each["contender"] for each in document["over"]} == set(OURS[:2])
    assert document["machine"]["threads"] == 1
    assert "inference, times copy_" in done.err  # the table is still there to read


def test_peers_that_are_missing(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"timm se": "package_of_another_world:SE", "timm coord": "torch.nn:CoordAttn9"}
    monkeypatch.setattr("coordcbam.bench.peers.PEERS", paths)
    done = call("bench", *QUICK, "--json")
    assert done.status == 0
    document = json.loads(done.out)
    assert [each["name"] for each in document["skipped"]] == list(paths)
    assert all(each["reason"] for each in document["skipped"])
    assert {each["rival"] for each in document["over"]} == {"notebook step2"}
    said = [line for line in done.err.splitlines() if line.startswith("skipped: ")]
    assert len(said) == 2
    assert "package_of_another_world" in said[0]


MISTAKES = {
    "--shapes 8x64x80": "BxCxHxW",
    "--shapes": "--shapes",
    "--shapes 1x16x4x4 many": "'many'",
    "--layout NHWC": "'NCHW'",
    "--threads 0": "expected 1 to",
    "--threads 100000": "expected 1 to",
    "--threads two": "invalid int",
    "--seconds 0": "more than 0",
    "--seconds nan": "more than 0",
    "--seconds inf": "up to",
    "--second 1": "--seconds",
    "words": "words",
}


@pytest.mark.parametrize(("words", "named"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    words: str, named: str, call: Callable[..., Any], empty: Path
) -> None:
    done = call("bench", *words.split())
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1, done.err
    assert named in done.err
    assert done.err.startswith("coordcbam bench: ")
