"""The whole lines of a text file of records, one by one; what is no record becomes a problem."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_UNREADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
    *(StopIteration, csv.Error),
)


def lines_of(path: Path, problems: list[str]) -> list[str]:
    """The whole lines of ``path``; a last one without its newline was cut by a kill."""
    # A crashed disk leaves NUL bytes, on which Python 3.10's csv module stops altogether.
    text = (
        path.read_bytes()
        .replace(b"\0", b"?")
        .decode("utf-8", errors="replace")
        .removeprefix("\ufeff")
    )
    *lines, torn = text.split("\n")
    if torn:
        problems.append(f"{path.name}: the last line is torn and was skipped")
    return lines


def each_of(
    path: Path, lines: list[str], parse: Callable[[str], _T], problems: list[str], *, first: int
) -> list[_T]:
    """What ``parse`` makes of each line; those that are none are counted, from line ``first``."""
    parsed = [_attempt(parse, line) for line in lines]
    bad = [number for number, item in enumerate(parsed, start=first) if item is None]
    if bad:
        count = "1 unreadable line" if len(bad) == 1 else f"{len(bad)} unreadable lines"
        problems.append(f"{path.name}: {count} skipped, from line {bad[0]}")
    return [item for item in parsed if item is not None]


def _attempt(parse: Callable[[str], _T], line: str) -> _T | None:
    try:
        return parse(line)
    except _UNREADABLE:
        return None
