"""Every text of the pages exists in every language, with the same holes."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam import report
from coordcbam._support.errors import UsageError
from coordcbam.monitor import diagnose
from coordcbam.preflight.result import UNITS
from coordcbam.report.words import LANGUAGES, Words

ROOM = Path(report.__file__).parent
HOLE = re.compile(r"\{(\w*)[^}]*\}")
# Texts that other rooms write into a run: their forms are in the tables, too.
OTHERS = {
    "finished",
    "failed",
    "running",
    "healthy",
    "no reading",
    "suppressing strongly",
    "rescue active",
}


def of_python(path: Path) -> set[str]:
    """The first text of ``words(...)``, the nouns of ``words.count(...)``, and constants given."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            texts = {"words": node.args[:1], "words.count": node.args[1:]}.get(name, [])
            for text in texts:
                found |= {n.value for n in ast.walk(text) if isinstance(n, ast.Constant)}
    return {text for text in found if isinstance(text, str)}


def of_template(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    found = set(re.findall(r'\b_\("((?:[^"\\]|\\.)*)"', text))
    for one, many in re.findall(r'\bn_\([^,]+, "([^"]*)", "([^"]*)"\)', text):
        found |= {one, many}
    return found


def used() -> set[str]:
    texts = set()
    for path in ROOM.glob("*.py"):
        texts |= of_python(path)
    for path in ROOM.glob("templates/*.jinja"):
        texts |= of_template(path)
    return texts


@pytest.fixture(params=[language for language in LANGUAGES if language != "en"])
def table(request: pytest.FixtureRequest) -> dict[str, str]:
    return json.loads((ROOM / f"languages/{request.param}.json").read_text(encoding="utf-8"))


def test_nothing_is_left_in_english(table: dict[str, str]) -> None:
    assert len(used()) > 80
    assert sorted((used() | OTHERS) - set(table)) == []


def test_the_holes_are_the_same(table: dict[str, str]) -> None:
    for text, translation in table.items():
        assert sorted(HOLE.findall(text)) == sorted(HOLE.findall(translation)), text


def test_events_of_the_monitor_are_translated(table: dict[str, str]) -> None:
    words = Words("tr")
    values = {"name": "rho", "kept": 0.412, "alpha": 0.7, "alpha_eff": 0.5}
    for kind, texts in diagnose._TEXTS.items():
        for text in texts:
            said = text.format(**values)
            assert words.told(said) != said, said
        assert {words.told(kind), words.told(f"{kind}_ended")}.isdisjoint({kind, f"{kind}_ended"})


def test_notes_of_a_preflight_are_translated() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 1), cc.CoordCBAM(8), nn.Conv2d(8, 8, 1))
            cc.insert_(self, "net.2", inputs=torch.zeros(1, 3, 4, 4))

        @torch.no_grad()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * self.net(x)

    found = cc.preflight(
        Deaf(), torch.ones(2, 3, 4, 4), at="net.2", blocks="step2", score=lambda _: 0.0, seeds=1
    )
    assert len(found.notes) == 4
    words = Words("tr")
    for note in (*found.notes, "skipped timm:cbam: no module"):
        assert words.told(note) != note


def test_what_a_preflight_measures_is_translated(table: dict[str, str]) -> None:
    assert set(UNITS.values()) <= set(table)


def test_a_text_is_told_by_the_form_that_says_most(table: dict[str, str]) -> None:
    words = Words("tr")
    holes = [text for text in table if "{" in text]
    assert all(words.told(text) == table[text] for text in set(table) - set(holes))
    said = "the rescue of b was active at 2 blocks, first at step 3"
    assert words.told(said).startswith("b bloğunun kurtarması")


def test_a_text_nobody_knows_stays() -> None:
    assert Words("tr").told("499/499 kept") == "499/499 kept"
    assert Words("en").told("anything {at} all") == "anything {at} all"


def test_another_language_is_one_line() -> None:
    with pytest.raises(UsageError, match="lang='de': expected one of en, tr"):
        Words("de")
