"""The page: figures, tables and sentences poured into one HTML file that needs nothing else."""

from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from coordcbam._support.files import write_atomically
from coordcbam.records import STRONGLY, SUPPRESSING, Run, read_run
from coordcbam.report.figures import Drawing, draw
from coordcbam.report.summary import guarantees, missing, sentences
from coordcbam.report.tables import flat, headings, last_readings, results, worst_reading

_PAGE, _FIGURES = "report.html", "figures"
_EVENTS_SHOWN = 200
_RECORDS = (".json", ".csv", ".jsonl")


def write_page(folder: Path, out: Path | None) -> Path:
    """See :func:`coordcbam.report.build_report`, which first asks for the packages."""
    run = read_run(folder)
    target = run.folder / _PAGE if out is None else Path(out)
    if target.is_dir():
        target /= _PAGE
    drawings = draw(run)
    figures = target.parent / _FIGURES
    figures.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        write_atomically(figures / f"{drawing.name}.svg", drawing.svg)
    write_atomically(target, render(run, drawings))
    return target


def render(run: Run, drawings: list[Drawing]) -> str:
    """The page as text; every name is escaped, only the figures are taken as they are."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("coordcbam.report").joinpath("page.html.jinja")
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        _context(run, drawings)
    )


def _moment(text: str) -> str:
    """An ISO time for people; what is none is shown as it is."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return text


def _context(run: Run, drawings: list[Drawing]) -> Mapping[str, Any]:
    def figure(drawing: Drawing) -> dict[str, Any]:
        return {"caption": drawing.caption, "name": drawing.name, "svg": Markup(drawing.svg)}

    config = dict(run.info.config)
    preset = config.pop("preset", None)
    rows = last_readings(run)
    return {
        "info": run.info,
        "name": run.folder.resolve().parent.name or "run",
        "started": _moment(run.info.started),
        "sentences": sentences(run),
        "missing": missing(run),
        "parameters": sum(place.parameters for place in run.info.places),
        "preset": preset,
        "options": flat(config),
        "guarantees": guarantees(run.info.certificate),
        "headings": headings(),
        "rows": rows,
        "results": results(run),
        "metric_figures": [figure(d) for d in drawings if d.group is None],
        "blocks": [
            {
                "name": row.block,
                "verdict": row.verdict,
                "worst": worst_reading(run, row.block),
                "figures": [figure(d) for d in drawings if d.group == row.block],
            }
            for row in rows
        ],
        "events": run.events[:_EVENTS_SHOWN],
        "more_events": max(0, len(run.events) - _EVENTS_SHOWN),
        "problems": run.problems,
        "files": sorted(p.name for p in run.folder.iterdir() if p.suffix in _RECORDS),
        "suppressing": SUPPRESSING,
        "strongly": STRONGLY,
    }
