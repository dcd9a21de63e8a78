"""``report``: a run's page, again while it goes on, runs side by side, and a checkpoint's looks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordcbam.cli import report
from coordcbam.records import Place, RunInfo, RunWriter


def make(folder: Path, *, steps: int = 3, status: str = "finished") -> Path:
    place = Place(path="model.16", channels=8, parameters=9)
    info = RunInfo(host="h", places=(place,), config={}, versions={})
    writer = RunWriter(folder / "coordcbam", info, ["r_out_pre", "alpha", "alpha_eff"])
    for step in range(steps):
        writer.rows(step, 0, step, {"model.16": (0.7, 0.5, 0.5)})
    writer.finish(status)
    writer.close()
    return folder


def test_a_run_has_its_page(call: Callable[..., Any], tmp_path: Path) -> None:
    done = call("report", make(tmp_path / "a"))
    assert done.status == 0, done.err
    page = tmp_path / "a" / "coordcbam" / "report.html"
    assert f"report: {page}" in done.out
    assert "model.16" in done.out
    assert '<html lang="en">' in page.read_text()


def test_language_and_target(call: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    done = call("report", make(tmp_path / "a"), "--lang", "tr", "-o", out, "--json")
    assert json.loads(done.out) == {"report": str(out), "problems": []}
    assert '<html lang="tr">' in out.read_text(encoding="utf-8")


def test_several_runs_are_laid_side_by_side(
    call: Callable[..., Any], tmp_path: Path, empty: Path
) -> None:
    done = call("report", make(tmp_path / "a"), make(tmp_path / "b"), "--json")
    assert done.status == 0, done.err
    page = Path(json.loads(done.out)["report"])
    assert page == Path("comparison.html")
    text = page.read_text(encoding="utf-8")
    assert all(f"</span>{name}</th>" in text for name in "ab")


def test_a_run_that_goes_on_is_built_again_until_it_ends(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "a", status="running")
    page, pages = folder / "coordcbam" / "report.html", []

    def meanwhile(seconds: float) -> None:
        assert seconds == 2.5
        pages.append(page.read_text(encoding="utf-8"))
        make(folder, steps=5, status="running" if len(pages) == 1 else "finished")

    monkeypatch.setattr(report.time, "sleep", meanwhile)
    done = call("report", folder, "--watch", "2.5")
    assert done.status == 0, done.err
    told = [line.rpartition(" (")[2] for line in done.out.splitlines()]
    assert told == ["step 2)", "step 4)", "step 4)"]
    assert "up to step 2" in pages[0]
    assert "up to step 4" in pages[1]
    assert all('http-equiv="refresh"' in text for text in pages)
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")


def test_an_interrupt_ends_watching(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report.time, "sleep", interrupt)
    done = call("report", make(tmp_path / "a", status="running"), "--watch", "--json")
    assert (done.status, json.loads(done.out)["status"]) == (0, "running")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "give the save_dir of a run"),
        (["RUN", "nowhere"], "give the save_dir of a run"),
        (["RUN", "--images", "a.jpg"], "are for a checkpoint"),
        (["RUN", "RUN", "--watch"], "--watch is for one run's folder"),
        (["RUN", "--watch", "0"], "expected seconds > 0"),
        (["RUN", "--lang", "de"], "invalid choice: 'de'"),
        (["FILE"], "give --images"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str], told: str, call: Callable[..., Any], tmp_path: Path, empty: Path
) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(b"")
    known = {"RUN": make(tmp_path / "a"), "FILE": file}
    done = call("report", *(known.get(word, word) for word in words))
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert told in done.err
    assert list(empty.iterdir()) == []
