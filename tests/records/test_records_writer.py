import json
import math
import os
import subprocess
import sys

import pytest

from coordcbam._support.errors import UsageError
from coordcbam._support.files import write_atomically
from coordcbam.records import Event, Place, RunInfo, RunWriter, read_run

FIELDS = ["r_out_pre", "alpha"]


def info(**changes):
    places = (Place(path="model.16", channels=64, parameters=10),)
    return RunInfo(**{"host": "h", "places": places, "config": {}, "versions": {}, **changes})


def write(folder, *steps, fields=FIELDS):
    writer = RunWriter(folder, info(), fields)
    for step in steps:
        writer.rows(step, 0, step / 10, {"model.16": [step + i for i in range(len(fields))]})
    writer.close()


def test_rows_come_back_bit_for_bit(tmp_path):
    with RunWriter(tmp_path, info(), FIELDS) as writer:
        writer.rows(7, 2, 0.1 + 0.2, {"model.16": (1 / 3, math.nan), 'a,"b': (math.inf, -1e-300)})
    first, second = read_run(tmp_path).monitor
    assert (first.step, first.epoch, first.seconds, first.block) == (7, 2, 0.1 + 0.2, "model.16")
    assert first.values["r_out_pre"] == 1 / 3
    assert math.isnan(first.values["alpha"])
    assert second.block == 'a,"b'
    assert second.values == {"r_out_pre": math.inf, "alpha": -1e-300}


def test_a_line_break_in_a_name_does_not_break_the_line(tmp_path):
    with RunWriter(tmp_path, info(), FIELDS) as writer:
        writer.rows(0, 0, 0.0, {"a\nb": (1, 2)})
    run = read_run(tmp_path)
    assert [row.block for row in run.monitor] == ["a b"]
    assert run.problems == ()


def test_rows_are_on_disk_before_the_writer_closes(tmp_path):
    writer = RunWriter(tmp_path, info(), FIELDS)
    writer.rows(0, 0, 0.0, {"model.16": (1, 2)})
    writer.event(Event(step=0, epoch=0, block="", kind="k", message="m"))
    run = read_run(tmp_path)
    assert (len(run.monitor), len(run.events), run.info.status) == (1, 1, "running")
    writer.close()
    writer.close()


def test_a_killed_process_leaves_its_rows(tmp_path):
    code = (
        "import os, sys, pathlib\n"
        "from coordcbam.records import RunInfo, RunWriter\n"
        "run = RunInfo(host='h', places=(), config={}, versions={})\n"
        "writer = RunWriter(pathlib.Path(sys.argv[1]), run, ['a'])\n"
        "writer.rows(3, 0, 0.0, {'b': [1.5]})\n"
        "writer.metrics(0, {'mAP50': 0.25})\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=os.environ)
    assert done.returncode == 9
    run = read_run(tmp_path)
    assert run.series("b", "a") == ([3], [1.5])
    assert run.metrics == ({"epoch": 0.0, "mAP50": 0.25},)


def test_rows_of_the_wrong_length_are_refused_and_nothing_is_written(tmp_path):
    writer = RunWriter(tmp_path, info(), FIELDS)
    with pytest.raises(UsageError, match=r"block 'bad' has 1 numbers, expected .* 2 fields"):
        writer.rows(0, 0, 0.0, {"model.16": (1, 2), "bad": (1,)})
    writer.close()
    assert len(read_run(tmp_path).monitor) == 0


@pytest.mark.parametrize("fields", [["a", "a"], ["step"]])
def test_repeated_columns_are_refused(tmp_path, fields):
    with pytest.raises(UsageError, match="appears twice"):
        RunWriter(tmp_path, info(), fields)


def test_metrics_take_the_union_of_columns(tmp_path):
    with RunWriter(tmp_path, info(), FIELDS) as writer:
        writer.metrics(0, {"train/box_loss": 2.0})
        writer.metrics(1, {"train/box_loss": 1.5, "mAP50": math.nan})
    text = (tmp_path / "metrics.csv").read_text().splitlines()
    assert text == ["epoch,train/box_loss,mAP50", "0,2.0,", "1,1.5,nan"]
    first, second = read_run(tmp_path).metrics
    assert first == {"epoch": 0.0, "train/box_loss": 2.0}
    assert math.isnan(second["mAP50"])


def test_a_resumed_run_keeps_metrics_and_replaces_repeated_epochs(tmp_path):
    with RunWriter(tmp_path, info(), FIELDS) as writer:
        writer.metrics(0, {"mAP50": 0.1})
        writer.metrics(1, {"mAP50": 0.2})
    with RunWriter(tmp_path, info(), FIELDS) as writer:
        writer.metrics(1, {"mAP50": 0.3})
    assert [row["mAP50"] for row in read_run(tmp_path).metrics] == [0.1, 0.3]


def test_a_resumed_run_appends_after_cutting_a_torn_line(tmp_path):
    write(tmp_path, 0, 1)
    with (tmp_path / "monitor.csv").open("ab") as file:
        file.write(b"2,0,0.2,model.16,0." + b"1" * 200_000)  # longer than one look back
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"step": ')
    write(tmp_path, 2)
    run = read_run(tmp_path)
    assert run.series("model.16", "alpha") == ([0, 1, 2], [1.0, 2.0, 3.0])
    assert run.problems == ()


def test_a_torn_header_is_begun_again(tmp_path):
    (tmp_path / "monitor.csv").write_bytes(b"step,epo")
    write(tmp_path, 4)
    assert read_run(tmp_path).series("model.16", "r_out_pre") == ([4], [4.0])


def test_other_columns_begin_a_new_file_and_keep_the_old(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1, fields=["T"])
    write(tmp_path, 2)
    assert (tmp_path / "monitor.1.csv").read_text().splitlines()[1:] == ["0,0,0.0,model.16,0.0,1.0"]
    assert (tmp_path / "monitor.2.csv").read_text().splitlines()[1:] == ["1,0,0.1,model.16,1.0"]
    run = read_run(tmp_path)
    assert [row.step for row in run.monitor] == [2]
    assert [line.split()[0] for line in run.problems] == ["monitor.1.csv", "monitor.2.csv"]


def test_a_resumed_run_keeps_its_start_and_its_notes(tmp_path):
    RunWriter(tmp_path, info(started="2026-01-01T00:00:00+00:00", notes=("a",)), FIELDS).close()
    RunWriter(tmp_path, info(notes=("b", "a")), FIELDS).close()
    found = read_run(tmp_path).info
    assert found.started == "2026-01-01T00:00:00+00:00"
    assert found.notes == ("a", "b")


def test_a_newer_run_is_not_overwritten_but_a_damaged_one_is(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"format": 99}')
    with pytest.raises(UsageError, match="format 99"):
        RunWriter(tmp_path, info(), FIELDS)
    assert path.read_text() == '{"format": 99}'
    path.write_text("[1,")
    RunWriter(tmp_path, info(), FIELDS).close()
    assert read_run(tmp_path).info.host == "h"


def test_finish_rewrites_the_status_and_leaves_no_temporary_file(tmp_path):
    writer = RunWriter(tmp_path, info(notes=("first",)), FIELDS)
    writer.finish("finished", result={"mAP50": 0.5}, notes=["second"])
    writer.close()
    raw = json.loads((tmp_path / "run.json").read_text())
    assert (raw["status"], raw["result"], raw["notes"]) == (
        "finished",
        {"mAP50": 0.5},
        ["first", "second"],
    )
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "monitor.csv", "events.jsonl"}
    with pytest.raises(UsageError, match="expected one of 'running', 'finished', 'failed'"):
        writer.finish("done")


def test_leaving_the_context_sets_the_status(tmp_path):
    with RunWriter(tmp_path / "ok", info(), FIELDS):
        pass
    with pytest.raises(RuntimeError), RunWriter(tmp_path / "bad", info(), FIELDS):
        raise RuntimeError("out of memory")
    with RunWriter(tmp_path / "own", info(), FIELDS) as writer:
        writer.finish("failed")
    assert read_run(tmp_path / "ok").info.status == "finished"
    assert read_run(tmp_path / "bad").info.status == "failed"
    assert read_run(tmp_path / "bad").info.notes == ("RuntimeError: out of memory",)
    assert read_run(tmp_path / "own").info.status == "failed"


def test_a_reader_has_the_old_file_or_the_new_one_whole(tmp_path):
    path = tmp_path / "run.json"
    write_atomically(path, "old" * 1000)
    with path.open() as opened_before:
        write_atomically(path, "new")
        assert opened_before.read() == "old" * 1000
    assert path.read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
