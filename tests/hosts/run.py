"""``make hosts``: count what holds in the hosts, section by section, and name what does not."""

import argparse
import collections
import contextlib
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
COUNTED = [str(path) for path in sorted((HERE / "figures").glob("check_*.py"))]
KEPT = "blocks kept after training, resuming, copying, fusing, exporting, loading afresh"
SPAWNED = "spawned processes that find the blocks"
SAFE = "checkpoints that load where only known names may"
# Tests of every day that are cases of a figure, by file and name.
SECTIONS = {
    "parity": dict.fromkeys(
        (
            "test_deepcopy",
            "test_fuse",
            "test_fuse_where_the_block_sits_on_a_convolution",
            "test_saved_and_loaded_in_a_process_that_never_heard_of_us",
            "test_half_precision",
            "test_predict_runs_the_blocks_also_after_fuse",
        ),
        KEPT,
    ),
    "export": dict.fromkeys(
        ("test_onnx", "test_onnx_with_a_size_it_was_not_traced_at", "test_torchscript"), KEPT
    ),
    "resume": dict.fromkeys(
        ("test_after_an_exception", "test_after_a_kill", "test_plain_yolo_resumes_with_the_blocks"),
        KEPT,
    ),
    "train": {"test_blocks_are_in_both_checkpoints": KEPT},
    "plain": {"test_our_checkpoint_predicts_validates_and_trains_with_its_blocks": KEPT},
    "spawned": {
        "test_a_child_trains_the_blocks": SPAWNED,
        "test_several_data_sets_keep_the_blocks_and_the_monitor": SPAWNED,
        "test_tuning_keeps_the_blocks": SPAWNED,
        "test_checkpoints_load_where_only_known_names_may": SAFE,
    },
}


class Counts:
    """A pytest plugin that gathers the cases of all workers."""

    def __init__(self) -> None:
        self.cases: dict[str, list[dict[str, str]]] = collections.defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a case when its call, or what ended it before, is reported."""
        if report.when != "call" and report.outcome == "passed":
            return
        if report.when == "teardown":
            return
        file, _, name = report.nodeid.rpartition("::")
        found = [value for key, value in report.user_properties if key == "counted"]
        sections = SECTIONS.get(Path(file).stem.rpartition("_")[2], {})
        section, told = found[-1] if found else (sections.get(name.partition("[")[0], ""), "")
        if section:
            case = {"case": name, "outcome": report.outcome, "told": told}
            if report.failed:
                case["told"] = str(report.longrepr).strip().splitlines()[-1]
            self.cases[section].append(case)


def main() -> int:
    """Run, print, and return pytest's own status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--only", default="", help="these cases, as pytest's -k")
    args = parser.parse_args()
    counts = Counts()
    others = [
        f"{HERE / f'test_hosts_ultralytics_{file}.py'}::{name}"
        for file, names in SECTIONS.items()
        for name in names
    ]
    words = [*COUNTED, *others, "-n", "2", "-q", "--no-header", "-p", "no:randomly"]
    words += ["-k", args.only] if args.only else []
    console = Console(stderr=args.json)
    # The document has to be alone on stdout.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        status = pytest.main(words, plugins=[counts])
    table = Table("figure", "held", "of", "skipped", title="Hosts, figure by figure")
    for section, cases in sorted(counts.cases.items()):
        by = collections.Counter(case["outcome"] for case in cases)
        table.add_row(section, str(by["passed"]), str(len(cases)), str(by["skipped"]))
    console.print(table)
    for section, cases in sorted(counts.cases.items()):
        for case in cases:
            if case["outcome"] != "passed" or section == "formats verified":
                line = f"{case['outcome']}: {case['case']}: {case['told']}"
                console.print(line, markup=False, highlight=False)
    if args.json:
        json.dump({"held": status == 0, "sections": counts.cases}, sys.stdout)
        sys.stdout.write("\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
