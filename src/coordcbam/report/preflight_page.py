"""The page of a preflight, from its document: what blocks would do, what they cost, and where."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam.report.charts import short
from coordcbam.report.page import write_page
from coordcbam.report.tables import ABSENT, number
from coordcbam.report.words import Words

_Figure = Mapping[str, Any] | None


def write_preflight_page(document: Mapping[str, Any], out: Path, words: Words) -> Path:
    """See :func:`coordcbam.report.build_preflight`, which first asks for the packages."""
    try:
        context = _context(document, words)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"document: expected what Preflight.to_dict() gives, got {type(error).__name__}: "
            f"{error}; make it with this version's coordcbam preflight"
        ) from None
    return write_page(out, "preflight.html.jinja", words, [], context, name="preflight.html")


def _context(document: Mapping[str, Any], words: Words) -> dict[str, Any]:
    about, without, rows = document["about"], document["without"], document["rows"]
    before = None if without["score"] is None else float(without["score"])
    return {
        "name": Path(str(about.get("model", "preflight"))).name,
        "sentences": _sentences(rows, before if without.get("score_tells", True) else None, words),
        "about": about,
        "paths": [place["path"] for place in about["places"]],
        "scored": _finite(before) is not None,
        "score_name": short(str(about.get("score", "score"))),
        "bars": _bars(rows) if (_finite(before) or 0.0) > 0.0 else [],  # of what is lost
        "effects": [_effects(row) for row in rows],
        "prices": [_prices(row) for row in rows],
        "without": without,
        "ranking": [_place(row) for row in document["ranking"]],
        "units": document["units"],
        "notes": document["notes"],
    }


def _sentences(rows: Sequence[Mapping[str, Any]], before: float | None, words: Words) -> list[str]:
    """Which blocks harm, which change nothing."""
    blocks = [row for row in rows if row["places"] and row["block"] != "none"]
    bad = [row for row in blocks if row["harms"]]
    same = [row["block"] for row in blocks if row["drift"]["high"] == 0.0]
    said = [words("No block was tried.")] if not blocks else []
    if bad:
        told = ", ".join(f"{row['block']} {_change(row, before, words)}" for row in bad)
        said.append(
            words(
                "The block harms this model before any training: {told}."
                if len(blocks) == 1
                else "{n} of {all} blocks harms this model before any training: {told}."
                if len(bad) == 1
                else "{n} of {all} blocks harm this model before any training: {told}.",
                n=len(bad),
                all=len(blocks),
                told=told,
            )
        )
    elif blocks:
        said.append(words("No block harms this model before any training."))
    if same:
        said.append(words("Not a bit of the outputs changes: {names}.", names=", ".join(same)))
    said.append(
        words("This is the state before training: what a block costs then, training may give back.")
    )
    return said


def _change(row: Mapping[str, Any], before: float | None, words: Words) -> str:
    if before is None or row["score"] is None:
        drift = float(row["drift"]["mean"])
        if not math.isfinite(drift):
            return words("makes outputs that are not finite")
        return words("moves the outputs by {share} %", share=f"{100 * drift:.1f}")
    return words(
        "{before} to {after}", before=number(before), after=number(float(row["score"]["mean"]))
    )


def _bars(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each block's score in percent of the best one, with both ends over seeds."""
    ends = [float(row["score"][end]) for row in rows for end in ("low", "mean", "high")]
    best = max((end for end in ends if math.isfinite(end)), default=0.0)

    def share(row: Mapping[str, Any], name: str) -> float:
        value = float(row["score"][name])
        return max(0.0, 100 * value / best) if math.isfinite(value) and best > 0 else 0.0

    return [
        {
            "block": row["block"],
            "harms": row["harms"],
            "mean": round(share(row, "mean"), 2),
            "low": round(share(row, "low"), 2),
            "wide": round(max(share(row, "high") - share(row, "low"), 0.4), 2),
            "text": " ".join(_spread(row["score"])),
        }
        for row in rows
    ]


def _effects(row: Mapping[str, Any]) -> dict[str, Any]:
    places = row["places"]
    names = ("std_ratio", "rms_ratio", "kept", "gradient_gain")
    cells = [[_mean(place[name]) for place in places] for name in names]
    low, high = (number(float(row[name]), 2) for name in ("gain_min", "gain_max"))
    return {
        "block": row["block"],
        "harms": row["harms"],
        "cells": [" · ".join(values) or ABSENT for values in cells],
        "gains": f"{low} … {high}",
        "certified": row["certified"],
        "drift": _spread(row["drift"]),
        "score": _scored(row["score"], row["shock"]),
        "input": _mean(row["gradient_input"]),
    }


def _prices(row: Mapping[str, Any]) -> list[str]:
    memory = row["memory_bytes"]
    return [
        row["block"],
        f"{row['parameters']:,}",
        f"{row['flops'] / 1e6:,.2f}",
        f"{row['elementwise'] / 1e6:,.2f}",
        f"{float(row['latency_ms']['mean']):+.2f}",
        f"× {float(row['latency_ratio']['mean']):.3f}",
        ABSENT if memory is None else f"{memory / 1e3:,.0f}",
    ]


def _place(row: Mapping[str, Any]) -> list[str]:
    shock, share = row["shock"], row["gradient_share"]
    return [
        str(row["rank"]),
        row["path"],
        row["layer"],
        f"{row['channels']:,}",
        ABSENT if shock is None else f"{float(shock):+.3f}",
        number(float(row["drift"])),
        ABSENT if share is None else f"{100 * float(share):.0f} %",
        f"{row['parameters']:,.0f}",
        f"{row['flops'] / 1e6:,.2f}",
    ]


def _mean(figure: _Figure) -> str:
    return ABSENT if figure is None else number(float(figure["mean"]))


def _spread(figure: _Figure) -> tuple[str, str]:
    """The mean, and both ends where seeds differ.

    >>> _spread({"mean": 0.5, "low": 0.4, "high": 0.6}), _spread(None)
    (('0.500', '0.400 … 0.600'), ('–', ''))
    """
    if figure is None:
        return ABSENT, ""
    mean, low, high = (float(figure[name]) for name in ("mean", "low", "high"))
    return number(mean), "" if low == high else f"{number(low)} … {number(high)}"


def _scored(score: _Figure, shock: _Figure) -> tuple[str, str]:
    """The score, and below it the shock and both ends."""
    text, ends = _spread(score)
    if shock is None:
        return text, ends
    change = float(shock["mean"])
    told = f"{change:+.3f}" if math.isfinite(change) else ABSENT
    return text, f"{told} · {ends}" if ends else told


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)
