"""From modes, sizes and layouts to jobs; and ``benchmarks/run.py``, which runs them."""

import csv
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from coordcbam._support.errors import UsageError
from coordcbam.bench import MODES, Contender, Detector, Job, Length, Row, graphs, jobs, modes_from

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
SIZES = [(1, 8, 6, 5), (2, 8, 6, 5)]
LAYOUTS = ["NCHW", "channels_last"]


def host(_: object) -> Detector:
    return Detector(nn.Identity(), lambda folder: folder)


@pytest.fixture(autouse=True)
def _with_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "missing", lambda: None)


def test_modes_in_our_order() -> None:
    assert modes_from(reversed(MODES)) == list(MODES)
    with pytest.raises(UsageError, match="'training'"):
        modes_from(["trainig"])


def test_a_job_for_each_size_and_layout(few: list[Contender], short: Length) -> None:
    found, skipped = jobs(MODES, SIZES, LAYOUTS, few, short, host)
    titles = [job.title for job in found]
    assert skipped == []
    for mode in ("inference", "training", "saved", "peak"):
        assert sum(title.startswith(f"{mode} ") for title in titles) == 4
    for mode in ("onnx", "monitor", "yolo"):
        assert sum(title.startswith(f"{mode} ") for title in titles) == 2
    assert len(set(titles)) == len(titles) == 4 * 4 + 3 * 2
    assert all(job.weight >= 0.0 for job in found)


def test_graphs_have_the_usual_layout(few: list[Contender], short: Length) -> None:
    found, _ = jobs(["onnx", "monitor"], SIZES[:1], ["channels_last"], few, short)
    assert [job.title for job in found] == [
        "onnx 1x8x6x5 NCHW",
        "monitor 1x8x6x5 channels_last",
    ]


def test_what_cannot_run_is_skipped_with_a_reason(
    few: list[Contender], short: Length, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "missing", lambda: "onnx not installed")
    found, skipped = jobs(["saved", "onnx", "yolo"], SIZES, LAYOUTS, few, short)
    assert {job.title.split()[0] for job in found} == {"saved"}
    assert [name for name, _ in skipped] == ["onnx", "yolo"]
    assert all(reason for _, reason in skipped)
    found, skipped = jobs(["yolo"], SIZES, LAYOUTS, few, short, host)
    assert [job.title for job in found] == ["yolo eager"]
    assert skipped == [("yolo onnx", "onnx not installed")]


@pytest.mark.parametrize("mode", ["inference", "training", "saved", "monitor"])
def test_a_job_gives_rows(mode: str, few: list[Contender], short: Length) -> None:
    (job,), _ = jobs([mode], SIZES[:1], LAYOUTS[:1], few, short)
    rows = job.run()
    assert {row.mode.split()[0] for row in rows} == {mode}
    assert {row.contender for row in rows} >= {"coordcbam step2", "notebook step2"}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``benchmarks/run.py``, writing elsewhere and leaving the process as it is."""
    monkeypatch.setattr(os, "environ", {**os.environ})
    spec = importlib.util.spec_from_file_location("benchmarks_run", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "keep_memory", lambda: True)
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", *words.split()])
    return script.main()


WORDS = "--shapes 2x16x6x5 --layouts NCHW --seconds 0.001 --name here"


def test_the_script_writes_a_file(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(script, monkeypatch, f"--modes saved training {WORDS}") == 0
    with (tmp_path / "here.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["mode"] for row in rows} == {"training", "saved"}
    assert {row["shape"] for row in rows} == {"2x16x6x5"}
    said = capsys.readouterr().out
    assert f"{len(rows)} rows" in said
    assert "training, times copy_" in said


def test_one_failure_is_told_and_the_rest_is_kept(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> list[Row]:
        raise RuntimeError("several\nlines")

    good = [Row(mode="m", shape="s", layout="l", contender="c", value=1.0, unit="times x")]
    work = [
        Job(title="first", weight=1.0, run=broken),
        Job(title="second", weight=1.0, run=lambda: good),
    ]
    monkeypatch.setattr(script, "jobs", lambda *_: (work, []))
    assert run(script, monkeypatch, WORDS) == 1
    assert "failed: first, RuntimeError: several lines" in capsys.readouterr().out
    assert len((tmp_path / "here.csv").read_text().splitlines()) == 2


def test_an_interrupted_run_keeps_what_it_has(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted() -> list[Row]:
        raise KeyboardInterrupt

    good = [Row(mode="m", shape="s", layout="l", contender="c", value=1.0, unit="times x")]
    work = [
        Job(title="first", weight=1.0, run=lambda: good),
        Job(title="second", weight=1.0, run=interrupted),
        Job(title="third", weight=1.0, run=lambda: good),
    ]
    monkeypatch.setattr(script, "jobs", lambda *_: (work, []))
    assert run(script, monkeypatch, WORDS) == 1
    assert len((tmp_path / "here.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "words", ["--modes trainig", "--shapes 1x2", "--layouts NHWC", "--threads 0", "--modes"]
)
def test_wrong_words(
    words: str, script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(script, monkeypatch, words)
    assert stop.value.code == 2
    assert list(tmp_path.iterdir()) == []
