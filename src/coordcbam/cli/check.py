"""``coordcbam check``: eight live checks of a config, and what is odd about it."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from coordcbam.block import certify
from coordcbam.cli.options import add_block_options, config_from
from coordcbam.notebook.checklist import checklist

WORDS = {True: "[green]passed[/]", False: "[red]FAILED[/]", None: "[dim]absent[/]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The block's options."""
    add_block_options(parser)


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 1 if a check failed; an absent mechanism is no failure."""
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
