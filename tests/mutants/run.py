"""``make mutants``: plant each listed fault in a copy of the source and see that a test fails."""

import argparse
import collections
import compileall
import json
import os
import sys
import tempfile
from pathlib import Path

import _forks
from _planting import ROOT, SOURCE, Fault, copy_of, faults
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

BAR = 0.95
WORDS = {0: "survived", 1: "killed", _forks.TIMED_OUT: "timed out", _forks.WRONG_COPY: "wrong copy"}


def main() -> int:
    """Plant, run, print; 0 where at least 95 % are killed and nothing went wrong."""
    args = _arguments()
    console = Console(stderr=args.json)
    try:
        planted = _chosen(args.only)
        for fault in planted:  # a stale entry is found before anything runs
            compile(fault.planted(), fault.file, "exec")
            fault.test_paths()
    except (ValueError, SyntaxError) as error:
        console.print(f"[red]the list of faults is stale:[/] {error}")
        return 1
    with tempfile.TemporaryDirectory(prefix="coordcbam-mutants-") as folder:
        outcomes = _outcomes(planted, Path(folder), args.jobs, console)
    if outcomes is None:
        return 1
    killed = sum(row["outcome"] == "killed" for row in outcomes)
    wrong = [row for row in outcomes if row["outcome"] not in ("killed", "survived")]
    console.print(_table(outcomes))
    for row in outcomes:
        if row["outcome"] != "killed":
            console.print(f"[red]{row['outcome']}[/] {row['id']} in {row['file']}", highlight=False)
            for sign in ("old", "new"):
                console.print(f"  {sign}: {row[sign]}", markup=False, highlight=False)
    console.print(f"{killed} of {len(outcomes)} killed: {killed / len(outcomes):.1%}")
    held = killed >= BAR * len(outcomes) and not wrong
    if args.json:
        share = killed / len(outcomes)
        found = {"planted": len(outcomes), "killed": killed, "share": share, "held": held}
        json.dump({**found, "faults": outcomes}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    return 0 if held else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", help="these faults or mechanisms only")
    parser.add_argument("--jobs", type=int, default=2, help="tests running at once")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser.parse_args()


def _chosen(only: list[str] | None) -> list[Fault]:
    everything = faults()
    known = {name for fault in everything for name in (fault.id, fault.mechanism)}
    if unknown := set(only or ()) - known:
        raise ValueError(f"no fault or mechanism {', '.join(sorted(unknown))}")
    return [f for f in everything if only is None or f.id in only or f.mechanism in only]


def _outcomes(
    planted: list[Fault], folder: Path, at_once: int, console: Console
) -> list[dict[str, object]] | None:
    """A row for each fault; None where a test fails without any."""
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "examples")
    sound = copy_of(SOURCE, folder / "sound", None)
    compileall.compile_dir(sound, quiet=2)
    _forks.warm_up()
    tests = dict.fromkeys(path for fault in planted for path in fault.test_paths())
    jobs = [
        _forks.Job(path, sound, (path,), folder / f"sound-{number}.log")
        for number, path in enumerate(tests)
    ]
    ends = _watched("without a fault", jobs, at_once, console)
    for name, end in ends.items():
        if end.status != 0:
            console.print(end.output[-3000:], markup=False, highlight=False)
            console.print(f"[red]{name} does not pass without a fault (status {end.status})[/]")
            return None
    console.print(next(iter(ends.values())).output.splitlines()[-1], highlight=False)
    jobs = [
        _forks.Job(f.id, copy_of(sound, folder / f.id, f), f.test_paths(), folder / f"{f.id}.log")
        for f in planted
    ]
    ends = _watched("with one each", jobs, at_once, console)
    return [_row(fault, ends[fault.id]) for fault in planted]


def _row(fault: Fault, end: _forks.Ended) -> dict[str, object]:
    names = ("id", "mechanism", "file", "old", "new")
    row: dict[str, object] = {name: getattr(fault, name) for name in names}
    row["outcome"] = WORDS.get(end.status, f"runner's error {end.status}")
    return {**row, "noticed_by": end.noticed_by, "seconds": round(end.seconds, 1)}


def _watched(
    title: str, jobs: list[_forks.Job], at_once: int, console: Console
) -> dict[str, _forks.Ended]:
    """How each job ended, by name, under a bar with the time that remains."""
    ends: dict[str, _forks.Ended] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Without a thread that refreshes: a fork must not meet a lock that another thread holds.
    bar = Progress(*columns, TimeRemainingColumn(), console=console, auto_refresh=False)
    with bar:
        task = bar.add_task(title, total=len(jobs))
        for end in _forks.run_all(jobs, at_once):
            if end is not None:
                ends[end.job.name] = end
                bar.advance(task)
            bar.refresh()
    return ends


def _table(outcomes: list[dict[str, object]]) -> Table:
    by_mechanism = collections.defaultdict(list)
    for row in outcomes:
        by_mechanism[row["mechanism"]].append(row["outcome"] == "killed")
    table = Table("mechanism", "planted", "killed", title="Planted faults")
    for name, kills in by_mechanism.items():
        colour = "green" if all(kills) else "red"
        table.add_row(str(name), str(len(kills)), f"[{colour}]{sum(kills)}[/]")
    return table


if __name__ == "__main__":
    sys.exit(main())
