"""What the documents say is so: their code runs, their links lead somewhere, tables are fresh."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from _support.offline import without_trackers

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NOT_RUN = "# not run"


# Each in a namespace of its own, as if it were the only one.
RUN = """
import json, sys
for place, code in json.loads(sys.argv[1]):
    exec(compile(code, place, "exec"), {"__name__": "__main__"})
"""
Example: TypeAlias = tuple[str, str]  # where it is, and its code


def examples(*, that_train: bool) -> list[Any]:
    """One parameter a page with examples that train, or that do not."""
    found = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        numbered = enumerate(FENCE.findall(page.read_text(encoding="utf-8")), start=1)
        chosen = [
            (f"{name}:{number}", code)
            for number, code in numbered
            if not code.startswith(NOT_RUN) and (".train(" in code) == that_train
        ]
        if chosen:
            found.append(pytest.param(chosen, id=name))
    return found


def test_the_readme_begins_with_an_example_of_five_lines() -> None:
    first = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert len([line for line in first.splitlines() if line.strip()]) == 5
    assert "insert(" in first
    assert not first.startswith(NOT_RUN)


@pytest.fixture
def run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Python of these arguments, in an empty folder and offline; its standard output."""
    (tmp_path / "config").mkdir()
    without_trackers(tmp_path / "config")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = {
        **inherited,
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "YOLO_CONFIG_DIR": str(tmp_path / "config"),
        "COORDCBAM_CACHE": str(tmp_path_factory.getbasetemp().parent / "digits"),
    }

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return python


@pytest.mark.parametrize("code", examples(that_train=False))
def test_examples_run(code: list[Example], run: Callable[..., str]) -> None:
    run(RUN, json.dumps(code))


@pytest.mark.long
@pytest.mark.parametrize("code", examples(that_train=True))
def test_examples_train(code: list[Example], tmp_path: Path, run: Callable[..., str]) -> None:
    # Where Ultralytics lies inside a git checkout, its runs go there; here they must not.
    runs = str(tmp_path / "runs")
    run(f"from ultralytics import settings; settings.update({{'runs_dir': {runs!r}}})")
    out = run(RUN, json.dumps(code))
    for _, text in code:  # the page says where the records are
        (said,) = re.findall(r"# (runs/\S+)", text)
        assert (tmp_path / said / "report.html").exists(), out[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    missing = [t for t in targets if t[0] != "#" and not (page.parent / t.split("#")[0]).exists()]
    assert missing == []


def test_the_table_of_options_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("make_options", ROOT / "docs" / "make_options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == module.table()


def test_no_file_names_a_place_outside_the_repository() -> None:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    private = [word.encode() for word in ("../" + "shared", "/wor" + "k/", "/roo" + "t/")]
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            text = path.read_bytes()
            found += [f"{name}: {word.decode()}" for word in private if word in text]
    assert found == []
