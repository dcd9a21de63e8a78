"""Tables and ratios over rivals, of rows that are given."""

import pytest
from rich.console import Console

from coordcbam.bench import Case, Row, over, table_of
from coordcbam.bench.rows import timed_rows

NAMES = ("coordcbam step3", "notebook step2", "timm se", "timm eca")


def text_of(mode: str, rows: list[Row]) -> list[list[str]]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table_of(mode, rows))
    lines = captured.get().splitlines()
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines
    ]


@pytest.fixture
def rows() -> list[Row]:
    found = []
    for width, scale in ((64, 1.0), (128, 2.0)):
        case = Case(size=(1, width, 8, 8))
        times = dict(zip(NAMES, ([6e-6], [30e-6 * scale], [3e-6], [1e-6]), strict=True))
        found += timed_rows("inference", case, {"copy_": [2e-6], **times}, {})
    return found


def test_a_table_of_ratios(rows: list[Row]) -> None:
    lines = text_of("inference", rows)
    assert lines[0] == ["inference, times copy_"]
    assert ["", "1x64x8x8", "1x128x8x8"] in lines
    assert ["copy_", "2 us", "2 us"] in lines
    assert ["coordcbam step3", "3.00", "3.00"] in lines
    assert ["notebook step2", "15.00", "30.00"] in lines
    assert ["step3 over timm se", "2.00", "2.00"] in lines
    assert ["step3 over notebook step2", "0.20", "0.10"] in lines
    assert not any("timm eca" in line[0] and "over" in line[0] for line in lines)


def test_over_is_of_the_same_map(rows: list[Row]) -> None:
    found = {(each["shape"], each["rival"]): each["times"] for each in over(rows)}
    assert found == {
        ("1x64x8x8", "timm se"): pytest.approx(2.0),
        ("1x64x8x8", "notebook step2"): pytest.approx(0.2),
        ("1x128x8x8", "timm se"): pytest.approx(2.0),
        ("1x128x8x8", "notebook step2"): pytest.approx(0.1),
    }
    assert {each["contender"] for each in over(rows)} == {"coordcbam step3"}


def test_a_rival_that_is_missing_leaves_no_line(rows: list[Row]) -> None:
    left = [row for row in rows if row.contender != "timm se"]
    assert {each["rival"] for each in over(left)} == {"notebook step2"}
    assert not any("timm se" in cell for line in text_of("inference", left) for cell in line)


def row(contender: str, layout: str, value: float, unit: str) -> Row:
    return Row(
        mode="m", shape="1x2x3x4", layout=layout, contender=contender, value=value, unit=unit
    )


@pytest.mark.parametrize(
    ("unit", "cell"), [("times x", "12.35"), ("nodes", "12"), ("us added", "12")]
)
def test_a_table_of_values(unit: str, cell: str) -> None:
    lines = text_of("m", [row("a", "NCHW", 12.345, unit), row("b", "NCHW", 1.0, unit)])
    assert lines[0] == [f"m, {unit}"]
    assert ["a", cell] in lines


def test_layouts_have_columns_of_their_own() -> None:
    lines = text_of("m", [row("a", "NCHW", 1.0, "times x"), row("a", "channels_last", 2.0, "")])
    assert ["", "1x2x3x4", "1x2x3x4"] in lines
    assert ["", "NCHW", "channels_last"] in lines
    assert ["a", "1.00", "2.00"] in lines


def test_what_was_not_measured_is_blank(rows: list[Row]) -> None:
    left = [r for r in rows if (r.contender, r.shape) != ("timm se", "1x128x8x8")]
    lines = text_of("inference", left)
    assert ["timm se", "1.50", ""] in lines
    assert ["step3 over timm se", "2.00", ""] in lines
