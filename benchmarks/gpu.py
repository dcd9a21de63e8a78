"""What the block and its passes cost on a CUDA GPU, beside a ``copy_`` of x.

    python benchmarks/gpu.py [--out benchmarks/results/gpu.csv] [--rounds 100]

Times are of CUDA events, with caches flushed before each call; everything about one map takes
turns. The block runs in every kernel that this installation has, beside the attention blocks of
timm and Ultralytics where they are installed. Figures are in ``benchmarks/results/gpu.csv`` where
it has been run.
"""

import argparse
import csv
import importlib.metadata
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from coordcbam import CoordCBAM
from coordcbam.bench import contenders
from coordcbam.kernels import KERNELS, algebra, chosen, triton_passes, use
from coordcbam.kernels.passes import Factors, Passes, Shape, Statistics

SHAPES = (
    (1, 64, 80, 80),
    (1, 128, 40, 40),
    (1, 256, 20, 20),
    (8, 64, 80, 80),
    (8, 128, 40, 40),
    (8, 256, 20, 20),
    (8, 512, 20, 20),
    (16, 256, 40, 40),
    (32, 64, 160, 160),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = {"triton": triton_passes.PASSES, "algebra": algebra.PASSES}
OUT = Path(__file__).parent / "results" / "gpu.csv"
FLUSHED = 2**28  # bytes, more than any cache holds
WARM_UP = 5

Work = dict[tuple[str, str], Callable[[], object]]


def work_of_passes(passes: Passes, x: Tensor, grad: Tensor) -> Work:
    """Every pass over ``x``, by name and kernel."""
    batch, channels, height, width = x.shape
    factors = Factors(
        x.new_ones(batch, channels),
        x.new_ones(batch, channels, height),
        x.new_ones(batch, channels, width),
    )
    shape, alpha = Shape(0.35, float("-inf"), float("inf")), x.new_full((), 0.75)
    found = passes.profile(x)
    gradients = Statistics(*(torch.randn_like(t) for t in found))
    work: dict[str, Callable[[], object]] = {
        "profile": lambda: passes.profile(x),
        "scale": lambda: passes.scale(x, factors, shape, alpha),
        "measure": lambda: passes.measure(x, factors, shape, alpha),
        "factors": lambda: passes.factors(grad, x, factors, shape, alpha),
        "input": lambda: passes.input(grad, x, factors, shape, alpha, found, gradients),
    }
    return {(name, passes.name): call for name, call in work.items()}


def work_of_block(
    name: str, block: nn.Module, x: Tensor, grad: Tensor, kernel: str | None = None
) -> Work:
    """Inference and a training step of a whole block, ours in one kernel."""
    leaf = x.clone().requires_grad_()

    def forward() -> None:
        if kernel:
            use(kernel)
        with torch.no_grad():
            block.eval()(x)

    def step() -> None:
        if kernel:
            use(kernel)
        leaf.grad = None
        block.zero_grad()
        block.train()(leaf).backward(grad)

    return {("block forward", name): forward, ("block step", name): step}


def work_of(x: Tensor, grad: Tensor) -> Work:
    """Everything that is timed for one map."""
    target = torch.empty_like(x)
    work: Work = {("copy_", "torch"): lambda: target.copy_(x)}
    for passes in PASSES.values():
        work |= work_of_passes(passes, x, grad)
    for kernel in KERNELS:
        if kernel != "cpu":
            work |= work_of_block(kernel, CoordCBAM(x.shape[1]).to(x), x, grad, kernel)
    for peer in contenders()[0]:
        if peer.config is None:
            work |= work_of_block(peer.name, peer.build(x.shape[1]).to(x), x, grad)
    return work


def times_of(work: Work, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of every call, all of them taking turns; the first rounds only warm up."""
    flushed = torch.empty(FLUSHED, dtype=torch.int8, device="cuda")
    event: Any = torch.cuda.Event
    events: dict[tuple[str, str], list[Any]] = {key: [] for key in work}
    for _ in range(WARM_UP + rounds):
        for key, call in work.items():
            started, ended = (event(enable_timing=True) for _ in range(2))
            flushed.zero_()
            started.record()
            call()
            ended.record()
            events[key].append((started, ended))
    torch.cuda.synchronize()
    return {
        key: [started.elapsed_time(ended) for started, ended in pairs[WARM_UP:]]
        for key, pairs in events.items()
    }


def rows_of(work: Work, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every call: its 20th, 50th and 80th percentile, and its ratio to the copy."""
    times = times_of(work, rounds)
    copy = statistics.median(times["copy_", "torch"])
    for (what, kernel), found in times.items():
        p20, _, _, p80 = statistics.quantiles(found, n=5)
        p50 = statistics.median(found)
        yield {
            "what": what,
            "kernel": kernel,
            "p20_ms": f"{p20:.5f}",
            "p50_ms": f"{p50:.5f}",
            "p80_ms": f"{p80:.5f}",
            "times_copy": f"{p50 / copy:.3f}",
        }


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton"),
        "cuda": str(torch.version.cuda),
        "coordcbam": importlib.metadata.version("coordcbam"),
    }


def measured(rounds: int, console: Console) -> Iterator[dict[str, Any]]:
    """All rows of the CSV, map by map."""
    cases = list(itertools.product(SHAPES, DTYPES, LAYOUTS))
    before, where = chosen(), machine()
    for size, dtype, layout in track(cases, "measuring", console=console, transient=True):
        x, grad = (
            torch.randn(size, device="cuda", dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
            for _ in range(2)
        )
        case = {
            "shape": "x".join(map(str, size)),
            "dtype": str(dtype).removeprefix("torch."),
            "layout": layout,
        }
        for row in rows_of(work_of(x, grad), rounds):
            yield case | row | where
    use(before)


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Ratios to the copy: a line for each map and kernel."""
    names = list(dict.fromkeys(row["what"] for row in rows))
    table = Table("shape", "dtype", "layout", "kernel", *names, title="times copy_")
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = row["shape"], row["dtype"], row["layout"], row["kernel"]
        lines.setdefault(key, {})[row["what"]] = row["times_copy"]
    for cells, found in lines.items():
        table.add_row(*cells, *(found.get(name, "") for name in names))
    return table


def main() -> None:
    """Measure every map, print the ratios, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: no CUDA device here; nothing was measured")
    if reason := triton_passes.supports(torch.zeros(1, 1, 1, 1, device="cuda")):
        sys.exit(f"benchmarks/gpu.py: no Triton here, since {reason}; nothing was measured")
    torch.manual_seed(0)
    console = Console()
    rows = list(measured(args.rounds, console))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    console.print(table_of(rows))
    console.print(f"{len(rows)} rows in {args.out}")


if __name__ == "__main__":
    main()
