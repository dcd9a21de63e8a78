"""``pictures.json``: written and read back, and what is broken becomes a problem."""

import json
import math
from pathlib import Path

import pytest

from coordcbam._support.errors import UsageError
from coordcbam.records import PICTURES, Picture, read_pictures, write_pictures

WHOLE = Picture(
    image="a<b>.jpg",
    block="model.16",
    stage="before",
    file="pictures/1.jpg",
    rows=(0.5, 1.0),
    columns=(1.25,),
    gain=(0.5, 1.0, 1.5),
    kept=((3, 1.5), (1, 1.25)),
    cut=((0, 0.5),),
    objects=1.25,
    background=0.75,
    note="half of it is sky",
)


def test_written_and_read_back(tmp_path: Path) -> None:
    bare = Picture(image="b.jpg", block="model.19", stage="after", file="pictures/2.jpg")
    write_pictures(tmp_path, [WHOLE, bare])
    problems: list[str] = []
    first, second = read_pictures(tmp_path, problems)
    assert (first, problems) == (WHOLE, [])
    assert all(math.isnan(value) for value in (*second.gain, second.objects, second.background))
    json.loads((tmp_path / PICTURES).read_text(), parse_constant=pytest.fail)


def test_none_is_no_problem(tmp_path: Path) -> None:
    problems: list[str] = []
    assert (read_pictures(tmp_path, problems), problems) == ([], [])


@pytest.mark.parametrize("text", ["", "[]", '{"pictures": 3}', '{"pictures": [{"image": "a"}]}'])
def test_a_broken_file_is_a_problem(text: str, tmp_path: Path) -> None:
    (tmp_path / PICTURES).write_text(text)
    problems: list[str] = []
    assert read_pictures(tmp_path, problems) == []
    assert len(problems) == 1
    assert PICTURES in problems[0]


def test_another_stage_is_refused() -> None:
    with pytest.raises(UsageError, match="later"):
        Picture(image="a", block="b", stage="later", file="c")
