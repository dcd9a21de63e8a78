"""What the monitor costs: a training forward with it over one without it, interleaved.

    python benchmarks/monitor_cost.py [--json]

One thread; the ratio of each pair of neighbouring runs, of which the median counts. A monitor reads
every tenth step by default, and in between a block of step 3 measures only what moves its average:
"steps" is the mean over ten, "reading" the one that is read.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from coordcbam import BlockConfig, CoordCBAM

SHAPES = ((8, 64, 80, 80), (8, 128, 40, 40), (8, 256, 20, 20))
PRESETS = ("step3", "step2")
# glibc gives freed memory back and fetches it again, which costs more than what is measured here.
STEADY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), "2000000000")
PAIRS = 40
EVERY = 10
WARM_UP = 5


def costs(preset: str, shape: tuple[int, int, int, int]) -> dict[str, float]:
    """The ratios of a step's forward, on average and where it is read."""
    reading, between = (cost(preset, shape, detailed=detailed) for detailed in (True, False))
    return {"steps": (reading + (EVERY - 1) * between) / EVERY, "reading": reading}


def cost(preset: str, shape: tuple[int, int, int, int], *, detailed: bool) -> float:
    """Median of (forward with monitor) / (forward without)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    block = CoordCBAM(shape[1], BlockConfig.preset(preset)).train()
    block.detailed = detailed
    x = torch.randn(shape)
    ratios = []
    for _ in range(WARM_UP + PAIRS):
        times = []
        for block.monitor in (False, True):
            started = time.perf_counter()
            block(x)
            times.append(time.perf_counter() - started)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios[WARM_UP:])


def main() -> None:
    """Measure every preset at every shape and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args()
    console = Console(stderr=args.json)
    cases = [(preset, shape) for preset in PRESETS for shape in SHAPES]
    rows = [
        {"preset": preset, "shape": shape, **costs(preset, shape)}
        for preset, shape in track(cases, "measuring", console=console, transient=True)
    ]
    table = Table("preset", "shape", "steps", "reading", title="With monitor / without")
    for row in rows:
        ratios = (f"x{row[name]:.3f}" for name in ("steps", "reading"))
        table.add_row(str(row["preset"]), str(row["shape"]), *ratios)
    console.print(table)
    if args.json:
        json.dump(rows, sys.stdout)


if __name__ == "__main__":
    if not STEADY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **STEADY})
    main()
