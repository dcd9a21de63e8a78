"""The command, its files, and the page that shows them."""

import csv
import dataclasses
import json

import pytest
from _stress import VERSIONS

from evidence.stress import __main__ as command
from evidence.stress import page
from evidence.stress.arms import ARMS
from evidence.stress.run import write
from evidence.stress.table import arm_rows, document, pair_rows, signal_rows
from evidence.stress.train import Settings, Trial


@pytest.fixture
def quick(monkeypatch, trials):
    monkeypatch.setattr(command, "run", lambda names, seeds, settings, jobs: trials)


def test_json_is_the_whole_of_stdout_and_the_file(quick, tmp_path, capsys):
    assert command.main(["--json", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "stress.json").read_text(encoding="utf-8"))
    assert "6 seeds" in err
    assert "36 CPU seconds" in err


def test_without_json_the_tables_are_printed(quick, tmp_path, capsys):
    command.main(["--out", str(tmp_path)])
    out = capsys.readouterr().out
    for words in ("guarded cbam", "5/6", "0.031", "identical"):
        assert words in out


@pytest.mark.parametrize(
    "words", [["--seeds", "1"], ["--seeds", "17"], ["--jobs", "0"], ["--steps", "x"]]
)
def test_bad_usage_is_refused_before_anything_runs(monkeypatch, words, tmp_path, capsys):
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as error:
        command.main([*words, "--out", str(tmp_path)])
    assert error.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seeds", "2"], ["--steps", "3"]])
def test_a_quick_look_cannot_replace_the_published_results(monkeypatch, words, capsys):
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as error:
        command.main(words)
    assert error.value.code == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("published", [True, False])
def test_only_the_published_experiment_rewrites_the_page(quick, monkeypatch, tmp_path, published):
    results, text = tmp_path / "results" / "stress.json", tmp_path / "evidence.md"
    empty = f"before\n{page.BEGIN}{page.END}"
    text.write_text(empty, encoding="utf-8")
    monkeypatch.setattr(page, "RESULTS", results)
    monkeypatch.setattr(page, "PAGE", text)
    assert command.main([] if published else ["--out", str(tmp_path / "other")]) == 0
    assert results.exists() == published
    made = json.loads((results if published else tmp_path / "other/stress.json").read_text())
    assert text.read_text(encoding="utf-8") == (page.filled(empty, made) if published else empty)


def read_trials(path):
    """The trials of a stress.csv, and what else stands in its first row."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {
        field.name: (int if field.type is int else str if field.type is str else float)
        for field in dataclasses.fields(Trial)
    }
    found = [
        Trial(**{k: kind(row[k]) if row[k] else None for k, kind in kinds.items()}) for row in rows
    ]
    return found, {key: value for key, value in rows[0].items() if key not in kinds}


def test_the_csv_keeps_every_digit_and_says_what_made_it(trials, tmp_path):
    settings = Settings(steps=7)
    trials[0] = dataclasses.replace(trials[0], accuracy=1 / 3, fired=0.1 + 0.2)
    made = document(trials, settings, VERSIONS)
    table, _ = write(tmp_path / "new", trials, settings, made)
    found, rest = read_trials(table)
    assert found == trials
    assert rest == {k: str(v) for k, v in {**dataclasses.asdict(settings), **VERSIONS}.items()}
    assert document(found, settings, VERSIONS) == made


def test_the_results_are_those_of_the_full_experiment():
    made = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    trials, rest = read_trials(page.RESULTS.with_suffix(".csv"))
    assert made["settings"] == dataclasses.asdict(Settings())
    assert {(one.arm, one.seed) for one in trials} == {(a, s) for a in ARMS for s in range(6)}
    assert len(trials) == 6 * len(ARMS)
    shared = {**made["settings"], **made["versions"]}
    assert rest == {key: str(value) for key, value in shared.items()}
    again = document(trials, Settings(), made["versions"])
    for kind, rows in (("arms", arm_rows), ("signal", signal_rows), ("pairs", pair_rows)):
        assert rows(made) == rows(again), kind


def test_the_page_shows_the_results():
    text = page.PAGE.read_text(encoding="utf-8")
    made = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert page.filled(text, made) == text
    for row in (*arm_rows(made), *pair_rows(made)):
        assert " | ".join(row) in text


def test_filling_changes_only_what_lies_between_the_markers(trials):
    made = document(trials, Settings(), VERSIONS)
    empty = f"before\n{page.BEGIN}old\n{page.END}after\n"
    once = page.filled(empty, made)
    assert once.startswith(f"before\n{page.BEGIN}")
    assert once.endswith(f"{page.END}after\n")
    assert "old" not in once
    assert page.filled(once, made) == once
    for broken in ("no markers", page.BEGIN, page.END + page.BEGIN):
        with pytest.raises(ValueError, match="markers"):
            page.filled(broken, made)
