"""Rows of given times, and the file they come to."""

import csv
from pathlib import Path

import pytest

from coordcbam import __version__
from coordcbam.bench import COLUMNS, Case, Row, machine, versions, write_csv
from coordcbam.bench.rows import timed_rows
from coordcbam.bench.timing import Spread

TIMES = {"copy_": [2e-6, 1e-6, 3e-6], "a": [5e-6, 4e-6, 90e-6]}


def test_ratios_are_of_medians_and_times_in_microseconds(case: Case) -> None:
    copy, a = timed_rows("inference", case, TIMES, {"a": "cpu"}, "a note")
    assert copy.times == pytest.approx((1.4, 2.0, 2.6))
    assert a.times.p50 == pytest.approx(5.0)
    assert (copy.ratio_to_copy, a.ratio_to_copy) == (1.0, 2.5)
    assert (copy.kernel, a.kernel) == (None, "cpu")
    assert (copy.note, a.note) == ("", "a note")
    assert (a.mode, a.shape, a.layout) == ("inference", "2x8x6x5", "NCHW")


def test_the_columns(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "new" / "cpu.csv"
    valued = Row(mode="saved", shape="s", layout="NCHW", contender="b", value=1.25, unit="times x")
    write_csv(path, [*timed_rows("inference", case, TIMES, {"a": "cpu"}), valued])
    assert (
        path.read_text().splitlines()[0]
        == ",".join(COLUMNS)
        == (
            "cpu,cores,threads,gpu,python,torch,timm,ultralytics,onnx,onnxruntime,onnxscript,coordcbam,"
            "mode,shape,layout,contender,kernel,p20_us,p50_us,p80_us,ratio_to_copy,value,unit,note"
        )
    )
    with path.open(newline="") as file:
        copy, a, b = csv.DictReader(file)
    assert a["ratio_to_copy"] == "2.5"
    assert a["p50_us"] == "5"
    assert (a["kernel"], copy["kernel"], a["value"]) == ("cpu", "", "")
    assert (b["value"], b["unit"], b["p50_us"], b["ratio_to_copy"]) == ("1.25", "times x", "", "")
    assert {row["coordcbam"] for row in (copy, a, b)} == {__version__}
    assert list(path.parent.iterdir()) == [path]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cpu.csv"
    path.write_text("old\n" * 100)
    write_csv(path, [])
    assert path.read_text() == ",".join(COLUMNS) + "\n"


def test_where_it_was_measured() -> None:
    found = machine()
    assert found["threads"] == 1
    assert found["cores"] >= 1
    assert found["cpu"]
    assert versions()["torch"]
    assert versions()["coordcbam"] == __version__
    assert set(COLUMNS) >= {*found, *versions()}


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordcbam.bench.rows.PACKAGES", ("package_of_another_world",))
    assert versions()["package_of_another_world"] is None


def test_cells_are_flat() -> None:
    row = Row(
        mode="m", shape="s", layout="l", contender="c", times=Spread(1.0, 2.0, 3.0), ratio_to_copy=4
    )
    assert row.cells() == {
        "mode": "m",
        "shape": "s",
        "layout": "l",
        "contender": "c",
        "kernel": None,
        "p20_us": 1.0,
        "p50_us": 2.0,
        "p80_us": 3.0,
        "ratio_to_copy": 4,
        "value": None,
        "unit": "",
        "note": "",
    }
