"""The page of one run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordcbam.records import STRONGLY, SUPPRESSING, Run, read_run
from coordcbam.report.charts import block_charts, metric_charts
from coordcbam.report.page import PAGE, write_page
from coordcbam.report.pictures_page import by_block
from coordcbam.report.summary import guarantees, missing, sentences
from coordcbam.report.tables import (
    Row,
    cited,
    flat,
    headings,
    last_readings,
    number,
    results,
    worst_reading,
)
from coordcbam.report.words import Words

_EVENTS_SHOWN = 200
_RECORDS = (".json", ".csv", ".jsonl")


def write_run_page(
    folder: Path, out: Path | None, words: Words, refresh: int | None = None
) -> Path:
    """See :func:`coordcbam.report.build_report`, which first asks for the packages."""
    run = read_run(folder, unrecorded=True)
    rows = last_readings(run)
    per_block = {
        row.block: block_charts(run, row.block, index, words)
        for index, row in enumerate(rows, start=1)
    }
    of_epochs = metric_charts(run, words)
    charts = [*(chart for found in per_block.values() for chart in found), *of_epochs]
    config = dict(run.info.config)
    context = {
        "info": run.info,
        "name": run.folder.resolve().parent.name or "run",
        "sentences": sentences(run, words),
        "missing": missing(run, words),
        "preset": config.pop("preset", None),
        "options": flat(config, words),
        "guarantees": guarantees(run.info.certificate, words),
        "headings": headings(words),
        "rows": rows,
        "blocks": [_block(run, row) | {"charts": per_block[row.block]} for row in rows],
        "metric_charts": of_epochs,
        "results": results(run),
        "pictures": by_block(run.folder, run.pictures),
        "cost": _cost(run, words),
        "events": run.events[:_EVENTS_SHOWN],
        "more_events": max(0, len(run.events) - _EVENTS_SHOWN),
        "problems": run.problems,
        "settings": flat(run.settings, words),
        "files": sorted(p.name for p in run.folder.glob("*") if p.suffix in _RECORDS),
        "suppressing": SUPPRESSING,
        "strongly": STRONGLY,
        "cited": cited(run),
        "fields": run.monitor.fields,
    }
    target = run.folder / PAGE if out is None else Path(out)
    return write_page(target, "run.html.jinja", words, charts, context, refresh)


def _block(run: Run, row: Row) -> dict[str, Any]:
    worst = worst_reading(run, row.block)
    return {"name": row.block, "verdict": row.verdict, "line": row.line, "worst": worst}


def _cost(run: Run, words: Words) -> list[tuple[str, str]]:
    """What is known of the price: recorded, or of the rows' own clock."""
    cost = run.info.cost
    parameters = cost.get("parameters", sum(place.parameters for place in run.info.places))
    added = words("{n} added", n=f"{parameters:,.0f}")
    said = [(words("Parameters"), added + _part(parameters, cost, "parameters_model", "", words))]
    flops = cost.get("flops", math.nan)
    if math.isfinite(flops):
        added = words("{n} added", n=f"{flops / 1e9:.4g} GFLOPs")
        part = _part(flops, cost, "flops_model", " GFLOPs", words)
        pixels = words("one image of {n} pixels", n=f"{cost.get('imgsz', math.nan):.0f}")
        said.append((words("Operations"), f"{added}{part} ({pixels})"))
    seconds = run.monitor.seconds_a_step()
    if seconds is not None:
        text = words("{n} s, all of it, by the clock of monitor.csv", n=number(seconds))
        said.append((words("A training step"), text))
    return said


def _part(added: float, cost: Mapping[str, float], name: str, unit: str, words: Words) -> str:
    whole = cost.get(name, 0.0)
    if not whole:
        return ""
    size = f"{whole / 1e9:.4g}{unit}" if unit else f"{whole:,.0f}"
    return words(", {share} % of the model's {n}", share=f"{100 * added / whole:.2f}", n=size)
