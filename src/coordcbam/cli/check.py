"""``coordcbam check``: eight live checks of a config; or the silent failures of what you have."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coordcbam._support.errors import MissingExtraError, UsageError
from coordcbam.block import certify
from coordcbam.cli.options import add_block_options, chosen, config_from
from coordcbam.notebook.checklist import checklist

if TYPE_CHECKING:
    from coordcbam.checks.findings import Finding

WORDS = {True: "[green]passed[/]", False: "[red]FAILED[/]", None: "[dim]absent[/]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A target, an export to compare it with, or the block's options."""
    parser.add_argument(
        "target", nargs="?", type=Path, help="a checkpoint, a yaml or a run's folder"
    )
    parser.add_argument("--export", type=Path, metavar="FILE", help="is the block in this export?")
    parser.add_argument(
        "--image", type=Path, action="append", default=[], help="for --export; may be repeated"
    )
    add_block_options(parser)


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 1 if a check failed or something was found; an absent mechanism is no failure."""
    if args.target is not None:
        if chosen(args):
            raise UsageError(f"{', '.join(chosen(args))}: a target has its own options")
        return _of_target(args)
    if args.export or args.image:
        raise UsageError("--export, --image: give the model too, as in check best.pt --export ...")
    config = config_from(args)
    checks, sure = checklist(config), certify(config)
    table = Table("check", "promised", "measured", "", title="The notebook's section 5, live")
    for check in checks:
        table.add_row(check.name, check.promise, check.measured, WORDS[check.passed])
    console = Console()
    console.print(table)
    console.print(f"[bold]certificate[/] of {config.name}")
    console.print(str(sure), markup=False, highlight=False)
    for flag, reason in sure.idle.items():
        console.print(f"idle: {flag}, {reason}", markup=False, highlight=False)
    for line in sure.notes:
        console.print(f"note: {line}", markup=False, highlight=False)
    failed = any(check.passed is False for check in checks)
    return int(failed), {"checks": checks, "preset": config.name, "certificate": sure}


def _of_target(args: argparse.Namespace) -> tuple[int, Any]:
    """What is wrong with a network, a run, or an export of a network."""
    from coordcbam.checks.findings import Finding
    from coordcbam.checks.network import network_findings
    from coordcbam.checks.opening import network_of
    from coordcbam.checks.records import record_findings
    from coordcbam.insert import attached, blocks
    from coordcbam.records import read_run

    if args.image and args.export is None:
        raise UsageError("--image: only --export looks at images")
    found, weights, count = [], args.target, 0
    document: dict[str, Any] = {}
    if args.target.is_dir():
        run_ = read_run(args.target)
        found, weights = record_findings(run_), run_.folder.parent / "weights" / "best.pt"
        if not weights.is_file() and args.export:
            raise UsageError(f"--export: no weights/best.pt in {run_.folder.parent}")
    console = Console()
    if weights.is_file() or not args.target.is_dir():
        try:
            network = network_of(weights)
        except MissingExtraError:
            raise
        except UsageError as error:
            if not args.target.is_dir():
                raise
            network = Finding(  # beside what the records say
                what="the weights cannot be read",
                where=str(weights),
                measured=str(error).removeprefix(f"{weights}: "),
                todo="check weights/last.pt, and resume from it or train again",
            )
        if isinstance(network, Finding):
            found.append(network)
        else:
            found += network_findings(network)
            count = len(attached(network) or blocks(network))
            line = f"{weights}: {count} block{'' if count == 1 else 's'}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            if args.export:
                document = _compared(network, args, found, console)
    _print(console, found)
    findings, notes = ([each for each in found if each.note is note] for note in (False, True))
    document = {"blocks": count, "findings": findings, "notes": notes, **document}
    return int(bool(findings)), {"target": args.target, **document}


def _compared(
    network: Any, args: argparse.Namespace, found: "list[Finding]", console: Console
) -> dict[str, Any]:
    """The distances to an export, printed; what they mean goes to ``found``."""
    from coordcbam.checks.export import compare

    done = compare(network, args.export, args.image)
    found += done.found
    table = Table(done.words, "boxes, px", "scores", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, far in {**done.distances, "tolerance": done.tolerance}.items():
        table.add_row(name, f"{far.box:.1e}", f"{far.score:.1e}")
    console.print(table)
    return {
        "distances": {name: far._asdict() for name, far in done.distances.items()},
        "tolerance": {"for": done.words, **done.tolerance._asdict()},
    }


def _print(console: Console, found: "list[Finding]") -> None:
    """A row a finding, notes last; what is the same in several places is one row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("found", "where", "measured", "to do"):
        table.add_column(head, overflow="fold")
    places: dict[tuple[bool, str, str, str], list[str]] = {}
    for each in found:
        key = each.note, each.what, each.measured, each.todo
        places.setdefault(key, []).append(each.where)
    for (note, *cells), where in sorted(places.items(), key=lambda item: item[0][0]):
        what, measured, todo = map(escape, cells)
        colour = "dim" if note else "red"
        table.add_row(f"[{colour}]{what}[/]", escape(", ".join(where)), measured, todo)
    if found:
        console.print(table)
    if all(each.note for each in found):
        console.print("nothing wrong was found")
