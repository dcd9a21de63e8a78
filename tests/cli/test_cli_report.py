"""``report``: a run's page, again while it goes on, runs side by side, and a checkpoint's looks."""

import json
import os
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


def test_a_run_of_nothing_but_nan_gets_no_zero(
    call: Callable[..., Any], tmp_path: Path, empty: Path
) -> None:
    lost = make(tmp_path / "lost")
    path = lost / "coordcbam" / "monitor.csv"
    path.write_text(path.read_text().replace("0.7,0.5,0.5", "nan,nan,nan"))
    assert call("report", make(tmp_path / "a"), lost).status == 0
    text = Path("comparison.html").read_text(encoding="utf-8")
    for title in ("Blocks that fell below 0.45", "Skipped or non-finite"):
        assert f">{title}</th><td>0</td><td>–</td></tr>" in text


def test_the_same_run_twice_is_told(call: Callable[..., Any], tmp_path: Path, empty: Path) -> None:
    run, other = make(tmp_path / "a"), make(tmp_path / "b")
    assert call("report", run, other, run / "coordcbam").status == 0
    text = Path("comparison.html").read_text(encoding="utf-8")
    assert "<li>a (3): the same run as a (1)</li>" in text
    assert text.count("the same run as") == 1


def plain(folder: Path, *, batch: int = 16) -> Path:
    """What Ultralytics leaves of two epochs without a block that is watched."""
    folder.mkdir()
    (folder / "args.yaml").write_text(f"task: detect\nbatch: {batch}\nname: {folder.name}\n")
    (folder / "results.csv").write_text(
        "epoch,time,train/box_loss,metrics/mAP50(B),metrics/mAP50-95(B),lr/pg0\n"
        "1,3.5,2.0,0.25,0.125,0.01\n2,7.0,1.0,0.5,0.375,0.01\n"
    )
    return folder


def drawn(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8").partition('type="application/json" id="data">')[2]
    document: dict[str, Any] = json.loads(text.partition("</script>")[0])
    return document


def test_a_run_that_nothing_watched_has_a_page(call: Callable[..., Any], tmp_path: Path) -> None:
    run = plain(tmp_path / "control")
    done = call("report", run, "--watch", "1")
    assert done.status == 0, done.err
    page = run / "coordcbam" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "no block was watched: scores and losses are those of results.csv" in text
    assert "results.csv:3" in text
    assert "The last mAP50-95 is 0.375" in text
    found = drawn(page)
    assert found["axes"][0]["x"] == [1, 2]  # as the terminal counts them
    lines = {line["name"]: line["values"] for line in found["charts"][0]["lines"]}
    assert lines == {"mAP50": [0.25, 0.5], "mAP50-95": [0.125, 0.375]}
    assert "pg0" not in text
    assert call("check", run).status == 2  # there is nothing to check


def test_a_control_is_laid_beside_a_run_with_blocks(
    call: Callable[..., Any], tmp_path: Path
) -> None:
    watched, page = make(tmp_path / "ours"), tmp_path / "both.html"
    (watched / "args.yaml").write_text("task: detect\nbatch: 8\nname: ours\n")
    done = call("report", watched, plain(tmp_path / "control"), "-o", page)
    assert done.status == 0, done.err
    text = page.read_text(encoding="utf-8")
    differing = [line for line in text.splitlines() if "settings." in line]
    assert len(differing) == 1, differing
    assert "settings.batch</th><td>8</td><td>16</td>" in differing[0]
    assert "0.375 at epoch 2" in text
    for fact in ("Parameters", "Blocks that fell below 0.45", "Blocks that were rescued"):
        (line,) = (line for line in text.splitlines() if f">{fact}<" in line)
        assert line.endswith("<td>–</td></tr>"), line  # no all-clear of what nobody watched
    axes = drawn(page)["axes"]
    assert [1, 2] in [axis["x"] for axis in axes]


def test_nothing_that_differs_is_said_so(call: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "both.html"
    assert call("report", plain(tmp_path / "a"), plain(tmp_path / "b"), "-o", page).status == 0
    text = page.read_text(encoding="utf-8")
    assert "No setting, option or version that is recorded differs." in text


def test_settings_that_cannot_be_read_are_told(call: Callable[..., Any], tmp_path: Path) -> None:
    run = plain(tmp_path / "a")
    (run / "args.yaml").write_text("[: no")
    done = call("report", run)
    assert done.status == 0, done.err
    assert "note: args.yaml is not readable: the host's settings are unknown" in done.out


def test_who_stops_watching_leaves_a_page_that_stays(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report.time, "sleep", interrupted)
    folder = make(tmp_path / "a", status="running")
    assert call("report", folder, "--watch").status == 0
    text = (folder / "coordcbam" / "report.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in text


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


def test_a_run_that_ends_while_it_is_read_leaves_a_page_that_stays(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "a", status="running")
    looked = report._changed

    def ends(home: Path) -> dict[str, int]:
        make(folder)
        monkeypatch.setattr(report, "_changed", looked)
        return looked(home)

    monkeypatch.setattr(report, "_changed", ends)
    monkeypatch.setattr(report.time, "sleep", lambda _: None)
    assert call("report", folder, "--watch").status == 0
    text = (folder / "coordcbam" / "report.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in text


def test_an_interrupt_of_the_first_reading_is_no_error(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = make(tmp_path / "a", status="running"), report.read_run

    def interrupt(*_: Any, **__: Any) -> Any:
        monkeypatch.setattr(report, "read_run", read)
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "read_run", interrupt)
    done = call("report", folder, "--watch", "--json")
    assert json.loads(done.out)["status"] == "running"


def test_skipped_batches_are_counted_once(
    call: Callable[..., Any], tmp_path: Path, empty: Path
) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    events = [
        {"step": 1, "block": name, "kind": k} for name in "xy" for k in ("skipped", "non_finite")
    ]
    (a / "coordcbam" / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    path = b / "coordcbam" / "monitor.csv"
    lines = path.read_text().replace("r_out_pre", "rho").splitlines()
    path.write_text("\n".join([lines[0] + ",skipped", *(line + ",3" for line in lines[1:]), ""]))
    assert call("report", a, b).status == 0
    text = Path("comparison.html").read_text(encoding="utf-8")
    assert ">Skipped or non-finite</th><td>1</td><td>3</td></tr>" in text


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope.pt", "--images", "a.jpg"], "nope.pt: no such checkpoint"),
        (["results.csv"], "results.csv: neither a run's folder nor a checkpoint"),
        (["best.pt", "--images", "a.jpg", "-o", "x.html"], "-o x.html: of a checkpoint expected a"),
        (["run", "--imgsz", "64"], "--images and --imgsz are for a checkpoint"),
        (["runs"], "give the save_dir of a run, such as runs/detect/train2\n"),
    ],
)
def test_what_is_no_target_is_told_as_what_it_is(
    call: Callable[..., Any], empty: Path, words: list[str], said: str
) -> None:
    for name in ("results.csv", "best.pt"):
        (empty / name).touch()
    for at, name in enumerate(("train2", "train")):
        file = make(empty / "runs" / "detect" / name) / "coordcbam" / "run.json"
        os.utime(file, (at, 1_000_000_000 - at))
    done = call("report", *words)
    assert (done.status, said in done.err) == (2, True), done.err
