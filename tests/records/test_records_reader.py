import json
import math
import subprocess
import sys

import pytest

from coordcbam._support.errors import UsageError
from coordcbam.records import Event, Place, RunInfo, RunWriter, read_run


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "coordcbam"
    places = tuple(Place(path=f"model.{i}", channels=8, parameters=9) for i in (16, 19))
    run = RunInfo(host="h", places=places, config={}, versions={})
    with RunWriter(home, run, ["r_out_pre"]) as writer:
        for step in range(3):
            writer.rows(step, 0, step, {"other": [step], "model.19": [step + 0.5]})
        writer.metrics(0, {"mAP50": 0.1})
        writer.event(Event(step=1, epoch=0, block="model.19", kind="rescue", message="ş\nactive"))
    return home


def test_the_run_folder_and_its_parent_are_the_same_run(folder):
    assert read_run(folder) == read_run(folder.parent)
    assert read_run(folder).folder == folder


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="give the save_dir of a run") as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_blocks_keep_the_places_order_and_last_is_the_last_line(folder):
    run = read_run(folder)
    assert run.blocks() == ["model.16", "model.19", "other"]
    assert run.monitor.last("model.16") is None
    assert run.monitor.last("model.19").step == 2
    assert run.series("model.19", "r_out_pre") == ([0, 1, 2], [0.5, 1.5, 2.5])
    assert run.series("model.19", "absent") == ([], [])


def test_events_keep_their_text(folder):
    (event,) = read_run(folder).events
    assert (event.kind, event.message) == ("rescue", "ş\nactive")


def test_of_repeated_steps_the_later_line_counts(folder):
    with (folder / "monitor.csv").open("a") as file:
        file.write("1,0,9.0,other,7.0\n")
    assert read_run(folder).series("other", "r_out_pre") == ([0, 1, 2], [0.0, 7.0, 2.0])


def test_torn_last_lines_are_skipped_and_told(folder):
    for name in ("monitor.csv", "events.jsonl", "metrics.csv"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-4])
    run = read_run(folder)
    assert (len(run.monitor), len(run.metrics), len(run.events)) == (5, 0, 0)
    assert run.problems == tuple(
        f"{name}: the last line is torn and was skipped"
        for name in ("monitor.csv", "metrics.csv", "events.jsonl")
    )


def test_unreadable_lines_are_counted_in_one_problem(folder):
    with (folder / "monitor.csv").open("ab") as file:
        file.write(b"x,0,0.0,other,1.0\n3,0,0.0,other\n\0\0\0\n4,0,0.0,other,1.0\n")
    run = read_run(folder)
    assert run.monitor[-1].step == 4
    assert run.problems == ("monitor.csv: 3 unreadable lines skipped, from line 8",)


@pytest.mark.parametrize("line", ["[1, 2]", "{", '"text"', '{"step": "soon"}'])
def test_a_line_that_is_no_event_is_told(folder, line):
    with (folder / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    run = read_run(folder)
    assert len(run.events) == 1
    assert run.problems == ("events.jsonl: 1 unreadable line skipped, from line 2",)


def test_missing_files_are_told_and_the_rest_is_read(folder):
    (folder / "run.json").unlink()
    run = read_run(folder)
    assert (run.info.host, run.blocks()) == ("unknown", ["other", "model.19"])
    assert [text.split(":")[0] for text in run.problems] == ["run.json is missing"]
    (folder / "monitor.csv").rename(folder / "gone")
    with pytest.raises(UsageError):
        read_run(folder)
    (folder / "run.json").write_text("{}")
    assert read_run(folder).problems == ("monitor.csv is missing: no block was read",)


@pytest.mark.parametrize("text", ["{", "[]", '{"places": 3}', "\udcff"])
def test_a_damaged_run_json_is_a_problem(folder, text):
    (folder / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    run = read_run(folder)
    assert len(run.monitor) == 6
    (problem,) = run.problems
    assert "run.json" in problem
    assert "\n" not in problem
    assert run.info.status == "unknown"


def test_a_byte_order_mark_is_no_damage(folder):
    path = folder / "run.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert read_run(folder).problems == ()


def test_a_newer_run_is_refused(folder):
    (folder / "run.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(UsageError, match="upgrade coordcbam") as caught:
        read_run(folder)
    assert str(caught.value).startswith(f"{folder}/run.json: format 2")


def test_missing_columns_are_told(folder):
    path = folder / "monitor.csv"
    path.write_text("step,block,T\n1,b,\n2,b,2.5\n")
    run = read_run(folder)
    assert run.problems == ("monitor.csv has no column 'epoch', 'seconds'",)
    assert math.isnan(run.monitor[0].values["T"])
    assert (run.monitor[1].epoch, run.monitor[1].values) == (0, {"T": 2.5})
    path.write_text("epoch,seconds,block\n1,2,b\n")
    run = read_run(folder)
    assert (len(run.monitor), run.problems) == (0, ("monitor.csv has no column 'step'",))


def test_windows_line_ends_are_read(folder):
    path = folder / "monitor.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    run = read_run(folder)
    assert (len(run.monitor), run.problems) == (6, ())


def test_records_load_no_torch():
    code = "import sys, coordcbam.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
