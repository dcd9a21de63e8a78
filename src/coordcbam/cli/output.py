"""What every verb prints with: one console, JSON without NaN, a table of blocks."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


def write_json(document: Any, out: TextIO) -> None:
    """Write one JSON document; numbers that are not finite become null.

    >>> import sys
    >>> write_json({"r": float("nan"), "shape": (2, 64)}, sys.stdout)
    {"r": null, "shape": [2, 64]}
    """
    out.write(json.dumps(_plain(document), ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
