"""The page of several runs side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam.records import Run, read_run
from coordcbam.report.charts import POINTS, Chart, Line, finite, is_map, short
from coordcbam.report.page import write_page
from coordcbam.report.summary import has_finite, last_score, lowest_of, rescues_of, score
from coordcbam.report.tables import ABSENT, flat, number
from coordcbam.report.words import Words

_COLOURS = 7


def write_compare_page(folders: Sequence[Path], out: Path, words: Words) -> Path:
    """See :func:`coordcbam.report.build_comparison`, which first asks for the packages."""
    if len(folders) < 2:
        raise UsageError(f"{len(folders)} run: expected two or more to lay side by side")
    runs = [read_run(folder, unrecorded=True) for folder in folders]
    names = _names(folders)
    charts = [*_metric_charts(runs, names, words), *_block_charts(runs, names, words)]
    problems = [
        (name, line) for name, run in zip(names, runs, strict=True) for line in run.problems
    ]
    context = {
        "name": " · ".join(names),
        "runs": [
            {"name": name, "colour": index % _COLOURS, "status": run.info.status}
            for index, (name, run) in enumerate(zip(names, runs, strict=True))
        ],
        "facts": [(title, [fact(run) for run in runs]) for title, fact in _facts(words)],
        "options": _differing(runs, words),
        "charts": charts,
        "problems": [*_repeated(runs, names, words), *problems],
    }
    return write_page(out, "compare.html.jinja", words, charts, context, name="comparison.html")


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as much of their path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    parts = [one[:-1] if one[-1:] == ("coordcbam",) else one for one in parts]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def _repeated(runs: Sequence[Run], names: Sequence[str], words: Words) -> list[tuple[str, str]]:
    """A line for each run that was given before: its curve hides the other's."""
    first: dict[Path, str] = {}
    for run, name in zip(runs, names, strict=True):
        first.setdefault(run.folder.resolve(), name)
    return [
        (name, words("the same run as {first}", first=first[run.folder.resolve()]))
        for run, name in zip(runs, names, strict=True)
        if first[run.folder.resolve()] != name
    ]


def _facts(words: Words) -> list[tuple[str, Callable[[Run], str]]]:
    def scored(found: tuple[str, float] | None) -> str:
        return f"{number(found[1])} ({found[0]})" if found else ABSENT

    def best(run: Run) -> str:
        scores = [(score(row), int(row["epoch"])) for row in run.metrics]
        found = [(one[1], epoch) for one, epoch in scores if one and one[0] == "mAP50-95"]
        if not found:
            return ABSENT
        value, epoch = max(found, key=lambda pair: pair[0])  # the first of equals
        return words("{value} at epoch {epoch}", value=number(value), epoch=epoch + 1)

    def lowest(run: Run) -> str:
        rows = [run.monitor.lowest(block, run.monitor.kept(block)) for block in run.blocks()]
        kept = [(row.values[run.monitor.kept(row.block)], row) for row in rows if row]
        if not kept:
            return ABSENT
        value, row = min(kept, key=lambda pair: pair[0])
        step = f"{row.step:,}"
        return words(
            "{value}, {block} at step {step}", value=number(value), block=row.block, step=step
        )

    def parameters(run: Run) -> str:
        return f"{sum(p.parameters for p in run.info.places):,}" if run.info.places else ABSENT

    def of_read(count: Callable[[Run], int]) -> Callable[[Run], str]:
        """A count, of a run that was read: no 0 is an all-clear of what nobody watched."""
        return lambda run: f"{count(run):,}" if has_finite(run) else ABSENT

    def skipped(run: Run) -> int:
        """Batches, by the counter of the block that skipped most, or the steps with events."""
        counted = run.monitor.highest("skipped")
        kinds = {"skipped", "non_finite"}
        told = len({event.step for event in run.events if event.kind in kinds})
        return told if counted is None else int(counted)

    return [
        (words("Blocks"), lambda run: ", ".join(run.blocks()) or ABSENT),
        (words("Preset"), lambda run: str(run.info.config.get("preset", ABSENT))),
        (words("Parameters"), parameters),
        (words("Score of the last epoch"), lambda run: scored(last_score(run))),
        (words("Final score"), lambda run: scored(score(run.info.result))),
        (words("Best mAP50-95"), best),
        (words("Least signal kept"), lowest),
        (words("Blocks that fell below 0.45"), of_read(lambda run: len(lowest_of(run)))),
        (words("Blocks that were rescued"), of_read(lambda run: len(rescues_of(run)))),
        (words("Skipped or non-finite"), of_read(skipped)),
        (words("Host"), lambda run: run.info.host),
    ]


def _differing(runs: Sequence[Run], words: Words) -> list[tuple[str, list[str]]]:
    """Settings, options and versions that are not the same in all runs that have recorded any."""
    groups = {
        "settings": [run.settings for run in runs],
        "options": [run.info.config for run in runs],
        "versions": [run.info.versions for run in runs],
    }
    rows: list[tuple[str, list[str]]] = []
    for group, given in groups.items():
        tables = [dict(flat({group: found}, words)) if found else {} for found in given]
        rows += [
            (name, [table.get(name, ABSENT) for table in tables])
            for name in dict.fromkeys(name for table in tables for name in table)
            if len({table.get(name, ABSENT) for table in tables if table}) > 1
        ]
    return rows


def _metric_charts(runs: Sequence[Run], names: Sequence[str], words: Words) -> list[Chart]:
    """A chart for each number that any run has by epoch, with a curve a run."""
    columns = dict.fromkeys(
        short(name) if is_map(name) else name
        for run in runs
        for row in run.metrics
        for name in row
        if is_map(name) or "loss" in name.lower()
    )
    charts = []
    for index, column in enumerate(sorted(columns, key=lambda name: not is_map(name))):
        series = [
            {
                int(row["epoch"]) + 1: finite(value)
                for row in run.metrics
                for name, value in row.items()
                if column in {name, short(name) if is_map(name) else name}
            }
            for run in runs
        ]
        title = words("{name} by epoch", name=column)
        chart = _together(f"metric-{index}", title, "epoch", series, names, (0.0, None))
        charts += [chart] if chart else []
    return charts


def _block_charts(runs: Sequence[Run], names: Sequence[str], words: Words) -> list[Chart]:
    """The signal kept by each block, with a curve a run."""
    charts = []
    for index, block in enumerate(dict.fromkeys(b for run in runs for b in run.blocks())):
        series = []
        for run in runs:
            kept = run.monitor.kept(block)
            data: dict[str, list[Any]] = run.monitor.thinned(block, [kept], POINTS)
            series.append(dict(zip(data["step"], data.get(kept, []), strict=False)))
        title = words("{block}: signal kept", block=block)
        chart = _together(f"kept-{index}", title, "step", series, names, (0.25, 1.05))
        charts += [chart] if chart else []
    return charts


def _together(
    name: str,
    title: str,
    axis: str,
    series: Sequence[dict[int, float | None]],
    names: Sequence[str],
    bounds: tuple[float, float | None],
) -> Chart | None:
    x = sorted({at for values in series for at in values})
    lines = [
        Line(name=run, values=[values.get(at) for at in x], colour=str(index % _COLOURS))
        for index, (run, values) in enumerate(zip(names, series, strict=True))
        if any(value is not None for value in values.values())
    ]
    if not lines:
        return None
    floor, ceiling = bounds
    return Chart(
        name=name,
        title=title,
        axis=axis,
        x=x,
        lines=lines,
        floor=floor,
        ceiling=ceiling,
        bridged=True,
    )
