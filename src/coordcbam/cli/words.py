"""``key=value`` words for Ultralytics: the argument that takes them, and ``data=digits``."""

import argparse
from pathlib import Path
from typing import Any

from coordcbam._support.errors import UsageError, did_you_mean
from coordcbam._support.extras import require

DIGITS = "digits"


def add_words(parser: argparse.ArgumentParser, keys: str) -> None:
    """The words themselves."""
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help=f"for Ultralytics: {keys}, ..."
    )


def prepared(words: list[str], mode: str) -> tuple[Any, dict[str, Any]]:
    """The model and the arguments of its ``mode``, all checked."""
    require("ultralytics", for_what=f"{mode} of a YOLO")
    from coordcbam.hosts.ultralytics import prepare

    return prepare(_with_digits(words), mode)


def _with_digits(words: list[str]) -> list[str]:
    """``data=digits`` is the embedded set.

    Raises:
        UsageError: something that is not there and all but called so.
    """
    for word in words:
        key, _, name = word.partition("=")
        meant = did_you_mean(name, [DIGITS])
        if key == "data" and name != DIGITS and meant and not Path(name).exists():
            raise UsageError(f"no data set {name!r}{meant}")
    if f"data={DIGITS}" not in words:
        return words
    from coordcbam.data import digits

    return [f"data={digits()}" if word == f"data={DIGITS}" else word for word in words]
