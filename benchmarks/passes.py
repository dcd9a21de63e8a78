"""What each pass over x costs, as a multiple of a ``copy_`` of x into memory that is there already.

    python benchmarks/passes.py [--kernel cpu] [--rounds 5] [--repeats 40]

Passes and copy take turns. CPU time of one thread, so that other work on the machine matters less:
the median of a round, then the least of the rounds' medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from coordcbam.kernels import algebra, cpu
from coordcbam.kernels.passes import Factors, Passes, Shape, Statistics

SHAPES = (
    (1, 64, 80, 80),
    (8, 64, 80, 80),
    (1, 128, 40, 40),
    (8, 128, 40, 40),
    (16, 256, 40, 40),
    (1, 256, 20, 20),
    (8, 256, 20, 20),
    (8, 512, 20, 20),
)
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
KERNELS = {"cpu": cpu.PASSES, "algebra": algebra.PASSES}


def work_of(
    passes: Passes, size: tuple[int, int, int, int], layout: torch.memory_format
) -> dict[str, Callable[[], object]]:
    """A copy, then every pass over maps of ``size``, by name."""
    batch, channels, height, width = size
    x, grad = (torch.randn(size).contiguous(memory_format=layout) for _ in range(2))
    target = torch.empty_like(x)
    factors = Factors(
        torch.rand(batch, channels),
        torch.rand(batch, channels, height),
        torch.rand(batch, channels, width),
    )
    shape, alpha = Shape(0.35, float("-inf"), float("inf")), torch.tensor(0.75)
    clamped = Shape(0.35, 0.7, 1.5)
    found = passes.profile(x)
    gradients = Statistics(*(torch.randn_like(t) for t in found))
    return {
        "copy": lambda: target.copy_(x),
        "profile": lambda: passes.profile(x),
        "scale": lambda: passes.scale(x, factors, shape, alpha),
        "clamped": lambda: passes.scale(x, factors, clamped, alpha),
        "measure": lambda: passes.measure(x, factors, shape, alpha),
        "factors": lambda: passes.factors(grad, x, factors, shape, alpha),
        "input": lambda: passes.input(grad, x, factors, shape, alpha, found, gradients),
    }


def medians(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds a call of each, all of them taking turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            started = time.thread_time()
            call()
            times[name].append(time.thread_time() - started)
    return {name: statistics.median(each) for name, each in times.items()}


def least(work: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, float]:
    """The least median of several rounds, after one that warms up."""
    medians(work, 5)
    found = [medians(work, repeats) for _ in range(rounds)]
    return {name: min(each[name] for each in found) for name in work}


def main() -> None:
    """Measure every shape in both layouts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernel", choices=KERNELS, default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    console, table = Console(), Table("shape", "layout", "copy, µs", title="times copy")
    cases = [(size, layout) for size in SHAPES for layout in LAYOUTS]
    for size, layout in track(cases, "measuring", console=console, transient=True):
        work = work_of(KERNELS[args.kernel], size, LAYOUTS[layout])
        found = least(work, args.rounds, args.repeats)
        copy = found.pop("copy")
        if not table.row_count:
            for name in found:
                table.add_column(name, justify="right")
        ratios = [f"{value / copy:.2f}" for value in found.values()]
        table.add_row(str(size), layout, f"{copy * 1e6:.0f}", *ratios)
    console.print(table)


if __name__ == "__main__":
    main()
