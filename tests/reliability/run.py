"""``make reliability``: run the reliability tests and print their figures, one line each."""

import argparse
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
BENCHMARK = HERE.parents[1] / "benchmarks" / "monitor_cost.py"


class Figures:
    """A pytest plugin that gathers the figures of all workers, with their tests' outcomes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's figures when its call, or a failing set-up, is reported."""
        if report.when != "call" and not (report.failed and report.when == "setup"):
            return
        found = [value for name, value in report.user_properties if name == "figure"]
        if report.failed and not found:
            found = [(report.nodeid.rpartition("::")[2], "failed before it measured", "")]
        for name, measured, bar in found:
            row = {"figure": name, "measured": measured, "bar": bar, "held": report.passed}
            self.rows.append({**row, "test": report.nodeid})


def _monitor_cost() -> list[dict[str, object]]:
    """The one figure that is a time: from the benchmark, alone on the machine, in no test."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json"], check=True, stdout=subprocess.PIPE
    )
    rows = []
    for found in json.loads(done.stdout):
        bar = "x1.10" if found["preset"] == "step3" else ""
        name = f"monitor cost of a forward, {found['preset']}, {tuple(found['shape'])}"
        held = not bar or found["steps"] <= 1.10
        row = {"figure": name, "measured": f"x{found['steps']:.3f}", "bar": bar, "held": held}
        rows.append({**row, "test": "benchmarks/monitor_cost.py"})
    return rows


def main() -> int:
    """Run, print, and return the tests' own exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args()
    figures = Figures()
    words = [str(HERE), "-n", "2", "-q", "--no-header"]
    console = Console(stderr=args.json)
    # The document has to be alone on stdout.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        status = pytest.main(words, plugins=[figures])
    rows = [*sorted(figures.rows, key=lambda row: str(row["test"])), *_monitor_cost()]
    table = Table("figure", "measured", "bar", "", title="Reliability, figure by figure")
    for row in rows:
        cells = (str(row[key]) for key in ("figure", "measured", "bar"))
        table.add_row(*cells, "[green]held[/]" if row["held"] else "[red]NOT HELD[/]")
    console.print(table)
    if args.json:
        held = status == 0 and all(row["held"] for row in rows)
        json.dump({"held": held, "figures": rows}, sys.stdout)
        sys.stdout.write("\n")
    return int(status) or int(not all(row["held"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
