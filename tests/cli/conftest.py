"""A command run in this process, with its streams as a terminal would get them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from coordcbam.cli.main import main


class Done(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path_factory.getbasetemp().parent
    monkeypatch.setenv("COORDCBAM_CACHE", str(base / "digits"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """``call("check", "--json")`` gives the status and both streams."""

    def run(*words: object) -> Done:
        capfd.readouterr()
        # pytest's own sys.stdout goes around descriptor 1, which --json redirects.
        with (
            open(1, "w", encoding="utf-8", closefd=False) as out,
            monkeypatch.context() as patch,
        ):
            patch.setattr(sys, "stdout", out)
            try:
                status = main([str(word) for word in words])
            except SystemExit as stop:
                status = int(stop.code or 0)
        streams = capfd.readouterr()
        return Done(status, streams.out, streams.err)

    return run
