"""Millions of readings as a table: the fast way and the careful one agree, line by line."""

import itertools
import math
import random
from pathlib import Path

import pytest

from coordcbam.records import RunInfo, RunWriter, read_run, table
from coordcbam.records.readings import Readings
from coordcbam.records.table import read_table

FIELDS = ["rho", "alpha", "alpha_eff"]


def write(folder: Path, steps: range, *, seed: int = 0) -> None:
    draw = random.Random(seed)
    info = RunInfo(host="h", places=(), config={}, versions={})
    with RunWriter(folder, info, FIELDS) as writer:
        for step in steps:
            rows = {
                name: [draw.random(), 0.5, draw.choice([0.5, 0.4, math.nan, math.inf])]
                for name in ("b", 'a,"x"', "c")
            }
            writer.rows(step, step // 10, step / 3, rows)


def every_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], tuple]]:
    """What is read at once, in short stretches, and line by line."""
    found = []
    for stretch, fast in itertools.product((1 << 24, 700), (table._fast, lambda *_: None)):
        with monkeypatch.context() as patch:
            patch.setattr(table, "STRETCH", stretch)
            patch.setattr(table, "_fast", fast)
            run = read_run(folder)
        found.append(([repr(row) for row in run.monitor], run.problems))
    return found


def test_all_ways_of_reading_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, range(40))
    first, *others = every_way(tmp_path, monkeypatch)
    assert len(first[0]) == 120
    assert first[1] == ()
    assert others == [first] * 3


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x,0,0.0,b,1,1,1",
        b"1,0,0.0,b,1,1",
        b"1,0,0.0,b,1,1,1,1",
        b"1,0,0.0,b,1,1,one",
        b'1,0,0.0,"b,1,1,1',
        b"\0\0\0\0",
        b"\xff\xfe,0,0,b,1,1,1",
        b"1.5,0,0.0,b,1,1,1",
    ],
)
def test_a_bad_line_costs_a_line(
    line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(40))
    path = tmp_path / "monitor.csv"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:50], line, *lines[50:]]))
    first, *others = every_way(tmp_path, monkeypatch)
    assert len(first[0]) == 120
    assert first[1] == ("monitor.csv: 1 unreadable line skipped, from line 51",)
    assert others == [first] * 3


@pytest.mark.parametrize(
    "line", [b"900,90,1.0,b,,0.5,0.5", b"900,90,1.0,b,nan,0.5,0.5", b"900, 90,1.0,b,NaN,.5, 0.5"]
)
def test_odd_lines_that_are_rows(
    line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(3))
    with (tmp_path / "monitor.csv").open("ab") as file:
        file.write(line + b"\n")
    ways = every_way(tmp_path, monkeypatch)
    assert ways == [ways[0]] * 4
    last = read_run(tmp_path).monitor[-1]
    assert (last.step, last.epoch, last.line, last.values["alpha"]) == (900, 90, 11, 0.5)
    assert math.isnan(last.values["rho"])


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, range(40))
    lines = (tmp_path / "monitor.csv").read_text().splitlines()
    for row in read_run(tmp_path).monitor:
        assert lines[row.line - 1].startswith(f"{row.step},{row.epoch},")


def of(*rows: tuple[int, str, float, float, float]) -> Readings:
    import polars as pl

    names = ["step", "block", *FIELDS]
    frame = pl.DataFrame(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return Readings(
        frame.with_row_index("line", offset=2).with_columns(
            line=pl.col("line").cast(pl.Int64), epoch=pl.lit(0), seconds=pl.lit(0.0)
        )
    )


def test_a_resumed_run_repeats_steps_and_the_later_line_counts() -> None:
    readings = of(
        (0, "b", 0.9, 0.5, 0.5), (1, "b", 0.1, 0.5, 0.4), (2, "b", 0.8, 0.5, 0.4),
        (1, "b", 0.7, 0.5, 0.5), (2, "b", 0.6, 0.5, 0.5),
    )  # fmt: skip
    assert readings.series("b", "rho") == ([0, 1, 2], [0.9, 0.7, 0.6])
    assert readings.lowest("b", "rho").line == 6
    assert readings.rescued("b") is None
    assert len(readings) == 5
    assert readings.thinned("b", ["rho"], 100)["line"] == [2, 5, 6]


def test_what_a_killed_run_wrote_past_its_resume_is_left_out(tmp_path: Path) -> None:
    first = [(step, step, 0.2 if step > 75 else 0.9) for step in range(70, 90, 2)]
    second = [(step, step - 75, 0.8) for step in range(75, 85, 2)]
    path = tmp_path / "monitor.csv"
    rows = [
        f"{step},0,{seconds},{block},{rho}"
        for step, seconds, rho in first + second
        for block in "ab"
    ]
    path.write_text("\n".join(["step,epoch,seconds,block,rho", *rows, ""]))
    readings = Readings(read_table(path, []))
    expected = [70, 72, 74, *range(75, 85, 2)]
    for block in "ab":
        assert readings.series(block, "rho") == (expected, [0.9] * 3 + [0.8] * 5)
        assert readings.lowest(block, "rho").values["rho"] == 0.8
    assert readings.seconds_a_step() == pytest.approx(1.0)
    assert readings.highest("rho") == 0.9
    rows[-3] = rows[-3].replace("81,", "1,", 1)  # one odd line is no resume
    path.write_text("\n".join(["step,epoch,seconds,block,rho", *rows, ""]))
    assert len(Readings(read_table(path, []))) == 16


def test_what_was_lowest_and_rescued() -> None:
    nan, inf = math.nan, math.inf
    readings = of(
        (0, "b", nan, 0.5, nan), (0, "c", 0.1, 0.5, 0.5), (1, "b", 0.4, 0.5, 0.5),
        (2, "b", 0.3, 0.5, 0.4), (3, "b", -inf, nan, 0.4), (4, "b", 0.3, 0.5, 0.2),
    )  # fmt: skip
    assert readings.lowest("b", "rho").step == 2
    first, count = readings.rescued("b")
    assert (first.step, count) == (2, 2)
    assert readings.rescued("c") is readings.rescued("nobody") is None
    assert readings.lowest("b", "absent") is readings.lowest("nobody", "rho") is None
    assert [readings.recovered("b", step) for step in (0, 1, 2)] == [1, None, None]
    assert readings.recovered("c", -1) == 0
    assert readings.steps() == (5, 0, 4)
    assert readings.last("b").step == 4
    assert readings.last("nobody") is None


def test_thinning_keeps_every_dip_and_peak_and_the_ends() -> None:
    draw = random.Random(1)
    values = [draw.random() for _ in range(20_000)]
    values[7_777], values[12_345], values[500] = -3.0, 9.0, math.nan
    readings = of(*((step, "b", value, 0.5, math.nan) for step, value in enumerate(values)))
    thin = readings.thinned("b", ["rho", "alpha", "alpha_eff", "absent"], 400)
    assert set(thin) == {"line", "step", "rho", "alpha"}
    assert 100 < len(thin["step"]) <= 402
    assert (thin["step"][0], thin["step"][-1]) == (0, 19_999)
    assert thin["step"] == sorted(thin["step"])
    assert {-3.0, 9.0} <= set(thin["rho"])
    assert all(values[step] == value for step, value in zip(thin["step"], thin["rho"], strict=True))
    whole = readings.thinned("b", ["rho"], 20_000)
    assert len(whole["step"]) == 20_000
    assert whole["rho"][500] is None
    assert readings.thinned("nobody", ["rho"], 10) == {"line": [], "step": []}


def test_a_gap_stays_a_gap_when_thinned() -> None:
    rows = [(s, "b", math.nan if 2000 <= s < 6000 else 0.5, 0.5, 0.5) for s in range(10_000)]
    thin = of(*rows).thinned("b", ["rho"], 200)
    holes = [s for s, value in zip(thin["step"], thin["rho"], strict=True) if value is None]
    assert holes
    assert all(2000 <= step < 6000 for step in holes)


def test_slices_and_comparisons() -> None:
    readings = of(*((step, "b", 0.5, 0.5, 0.5) for step in range(5)))
    assert [row.step for row in readings[1:3]] == [1, 2]
    assert readings[1:3] == readings[1:3]
    assert readings[1:3] != readings[:3]
    assert readings[-1].step == 4
    with pytest.raises(IndexError):
        readings[5]
