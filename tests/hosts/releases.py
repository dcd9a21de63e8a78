"""``make test-hosts``: the host's tests with older releases of Ultralytics, and a table.

Each release lies in a folder of its own in front of the environment's, so that nothing else differs.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

RELEASES = ("8.3.200", "8.3.240", "8.4.10")
TESTS = Path(__file__).parent
FILES = ("hooks", "insert", "plain", "train", "resume", "export", "parity", "spawned")
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error)")


def main() -> int:
    """Install, run, print; 0 where every release passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", default=RELEASES, metavar="RELEASE")
    parser.add_argument("--folder", type=Path, default=Path("build", "ultralytics"))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    console = Console()
    table = Table(
        "Ultralytics", "passed", "failed", "skipped", title="The host's tests, by release"
    )
    failed: dict[str, list[str]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=len(args.releases))
        for release in args.releases:
            progress.update(task, description=f"ultralytics {release}")
            said = tested(installed(release, args.folder), args.jobs)
            counts = {word: number for number, word in COUNTS.findall(said.splitlines()[-1])}
            failed[release] = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
            bad = str(len(failed[release]))
            table.add_row(release, counts.get("passed", "0"), bad, counts.get("skipped", "0"))
            progress.advance(task)
    console.print(table)
    for release, names in failed.items():
        for name in names:
            console.print(f"{release}: {name}", highlight=False, markup=False)
    return int(any(failed.values()))


def installed(release: str, folder: Path) -> Path:
    """The release's folder, filled if it was not."""
    target = (folder / release).resolve()
    if not (target / "ultralytics").is_dir():
        words = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([sys.executable, *words, f"ultralytics=={release}"], check=True)
    return target


def tested(release: Path, jobs: int) -> str:
    """What pytest says of the host's tests with this release."""
    paths = os.pathsep.join(filter(None, [str(release), os.environ.get("PYTHONPATH")]))
    files = [str(TESTS / f"test_hosts_ultralytics_{name}.py") for name in FILES]
    files.append(str(TESTS / "test_hosts_yolo_rows.py"))
    words = ["-m", "pytest", "-q", "-n", str(jobs), "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(  # noqa: PLW1510  (failures are what is counted)
        [sys.executable, *words], env=environment, capture_output=True, text=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
