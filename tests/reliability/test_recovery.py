"""kill -9 in a plain training loop: started again, it ends where it would have ended."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from recovery import plain
from recovery.instants import draw
from recovery.killing import Done, Killed, run

from coordcbam.records import read_run

WANTED = {"run": 5, "step": 6, "save": 4, "write": 5}
COUNTERS = (".updates", ".skipped")


def bits(state):
    """A state as nested tuples, each tensor as its type, shape and bytes."""
    if isinstance(state, dict):
        return tuple((key, bits(value)) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return tuple(map(bits, state))
    if isinstance(state, torch.Tensor):
        return state.dtype, tuple(state.shape), state.numpy().tobytes()
    return state


def end(folder):
    return torch.load(folder / "end.pt")


def rows(folder):
    """Every number of every block that a reader of the records sees, step by step."""
    found = read_run(folder)
    assert found.info.status == "finished"
    assert found.problems == ()
    return repr(
        {(b, f): found.series(b, f) for b in found.blocks() for f in found.monitor[0].values}
    )


def check_readable(folder):
    """What the kill left of the records can be read; there are none before the monitor."""
    if (folder / "coordcbam" / "run.json").exists():
        found = read_run(folder)
        assert found.info.status in ("running", "finished")
        assert all(problem.startswith("monitor.csv is missing") for problem in found.problems)


def check_worth_comparing(model):
    """Numbers that say something: none is NaN, the averages have moved, steps were skipped."""
    for key, value in model.items():
        assert value.isfinite().all(), key
        assert not key.endswith(COUNTERS) or value > 0, key
        assert not key.endswith(".r_ema") or value != 1, key


def is_torn(path):
    """Whether ``path`` is there and is no checkpoint."""
    if not path.exists():
        return False
    try:
        torch.load(path)
    except Exception:  # torch raises several kinds
        return True
    return False


@pytest.mark.long
def test_twenty_kills_change_no_bit(tmp_path, figure):
    whole = tmp_path / "whole"
    whole.mkdir()
    calls = run(plain.train, whole, count=True).calls
    wanted, wanted_rows = bits(end(whole)), rows(whole)
    check_worth_comparing(end(whole)["model"])
    where, torn = [], 0
    for number, instant in enumerate(draw(calls, WANTED, seed=3)):
        folder = tmp_path / str(number)
        folder.mkdir()
        where.append(run(plain.train, folder, kill_at=instant))
        assert isinstance(where[-1], Killed)
        torn += is_torn(folder / "checkpoint.tmp")
        check_readable(folder)
        assert isinstance(run(plain.train, folder), Done)
        assert bits(end(folder)) == wanted, f"{instant}: {where[-1]}"
        assert rows(folder) == wanted_rows, f"{instant}: {where[-1]}"
        assert not list(folder.glob("*.tmp"))
    saving = sum("save" in killed.inside for killed in where)
    assert 5 <= saving <= 15
    assert torn >= 5
    said = f"{len(where)}/20 bit for bit, {saving} of them in a save, {torn} leave a broken file"
    figure("kill -9, plain loop", said, "20/20")


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A kill cannot show this, a power cut would: a renamed file that has no bytes yet."""
    done = []
    fsync, replace = os.fsync, Path.replace
    path = tmp_path / "checkpoint.pt"

    def synced(handle):
        done.append(("fsync", os.fstat(handle).st_size, os.fstat(handle).st_ino))
        fsync(handle)

    def replaced(self, target):
        done.append(("replace", self.stat().st_size, self.stat().st_ino))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    plain.loop().save({"weights": torch.zeros(1000)}, path)
    size, inode = path.stat().st_size, path.stat().st_ino
    assert done == [("fsync", size, inode), ("replace", size, inode)]


def start(folder, environment):
    return subprocess.Popen(
        [sys.executable, plain.EXAMPLE, str(folder)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_the_example_goes_on_after_a_kill(tmp_path, child_environment):
    killed = start(tmp_path, child_environment)
    checkpoint = tmp_path / "checkpoint.pt"
    while not checkpoint.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    again = start(tmp_path, child_environment)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    step = int(re.search(r"resumed at step (\d+)", said)[1])
    updates = [int(n) for n in re.findall(r"after (\d+) updates, 0 skipped", said)]
    assert 0 < step <= plain.loop().STEPS
    assert updates == [step, step, 180, 180]  # both blocks, as resumed and at the end
    assert float(re.search(r"([\d.]+)% of the test digits are right", said)[1]) > 85
    assert read_run(tmp_path).problems == ()


def test_a_checkpoint_without_one_of_its_parts_would_end_elsewhere(tmp_path):
    """The control of the comparison above: each part of the checkpoint decides about the end."""
    example = plain.loop()
    images, labels = (found[: plain.PICTURES] for found in example.digits())
    half = example.train(tmp_path, images, labels, plain.STEPS // 2).state_dict()
    fresh = example.Training().state_dict()
    averages = {key: value for key, value in fresh["model"].items() if key.endswith(".r_ema")}

    def ends_from(state):
        example.save(state, tmp_path / "checkpoint.pt")
        return bits(example.train(tmp_path, images, labels, plain.STEPS).state_dict())

    wanted = ends_from(half)
    assert ends_from(half) == wanted
    for part in ("optimizer", "random"):
        assert ends_from({**half, part: fresh[part]}) != wanted, part
    assert ends_from({**half, "place": (*half["place"][:2], fresh["place"][2])}) != wanted
    assert ends_from({**half, "model": {**half["model"], **averages}}) != wanted
