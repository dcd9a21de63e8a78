"""The tables of docs/evidence.md, written from the results so that they cannot go stale."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coordcbam._support.files import write_atomically
from evidence.stress.table import (
    ARM_HEAD,
    PAIR_HEAD,
    SIGNAL_HEAD,
    arm_rows,
    pair_rows,
    remarks,
    signal_rows,
)

BEGIN = "<!-- stress: written by `make stress` from evidence/results/stress.json -->\n"
END = "<!-- stress: end -->\n"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence.md"
RESULTS = ROOT / "evidence" / "results" / "stress.json"


def filled(page: str, made: dict[str, Any]) -> str:
    """``page`` with the results between its two markers.

    Raises:
        ValueError: a page without them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page lacks the markers of the stress tables")
    return before + begin + "\n" + _section(made) + "\n" + end + after


def _section(made: dict[str, Any]) -> str:
    settings, made_with = made["settings"], made["versions"]
    setting = (
        f"{made['seeds']} seeds, {settings['depth']} blocks of {settings['channels']} channels, "
        f"{settings['steps']} steps of {settings['batch']} pictures, AdamW "
        f"{settings['learning_rate']:g}; "
        + ", ".join(f"{name} {version}" for name, version in made_with.items())
        + f"; {made['cpu_seconds']:.0f} CPU seconds."
    )
    arms = _markdown(("arm", "block"), ((arm["arm"], arm["what"]) for arm in made["arms"]))
    notes = "".join(f"- {line}\n" for line in remarks(made))
    parts = [
        setting + "\n",
        arms,
        _markdown(ARM_HEAD, arm_rows(made)),
        _markdown(SIGNAL_HEAD, signal_rows(made)),
        _markdown(PAIR_HEAD, pair_rows(made)),
        notes,
    ]
    return "\n".join(parts)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def refresh() -> None:
    """Write the results that lie in the repository into its page."""
    made = json.loads(RESULTS.read_text(encoding="utf-8"))
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), made))


if __name__ == "__main__":
    refresh()
