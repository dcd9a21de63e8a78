"""What a whole block costs beside its peers, as multiples of a ``copy_`` of x in the same rounds.

    python benchmarks/block.py [--modes inference training saved monitor onnx] [--rounds 15]
        [--layout NCHW] [--out benchmarks/results/block.csv]

Everything of one shape takes turns, on one thread, float32; a row has the 20th, 50th and 80th
percentile of its times. ``saved`` is a multiple of x's bytes instead. "notebook" is step 2 by the
oracle kernel, whose arithmetic is the notebook's, operation by operation.
"""

import argparse
import csv
import importlib.metadata
import io
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from coordcbam import BlockConfig, CoordCBAM, deploy
from coordcbam.kernels import kernel_for, use

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
PEERS = {"timm se": "se", "timm eca": "eca", "timm cbam": "cbam", "timm coord": "coord"}
VERSIONS = ("torch", "timm", "ultralytics", "onnxruntime", "coordcbam")
# glibc gives freed memory back and fetches it again, which costs more than what is measured here.
STEADY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), "2000000000")
Call = Callable[[], object]


def contenders(channels: int) -> dict[str, tuple[str, nn.Module]]:
    """Kernel and module of each contender, ours first."""
    found: dict[str, tuple[str, nn.Module]] = {
        "step3": ("auto", CoordCBAM(channels)),
        "step2": ("auto", CoordCBAM(channels, BlockConfig.step2())),
        "step2, algebra": ("algebra", CoordCBAM(channels, BlockConfig.step2())),
        "notebook": ("plain", CoordCBAM(channels, BlockConfig.step2())),
    }
    try:
        from timm.layers import get_attn

        found |= {name: ("auto", get_attn(kind)(channels)) for name, kind in PEERS.items()}
    except ImportError:
        pass
    try:
        from ultralytics.nn.modules.conv import CBAM

        found["ultralytics CBAM"] = ("auto", CBAM(channels))
    except ImportError:
        pass
    for _, module in found.values():
        if isinstance(module, CoordCBAM):  # as trained ones are, no identity
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return found


def inference(x: Tensor) -> dict[str, Call]:
    """A forward in eval mode."""

    def of(kernel: str, module: nn.Module) -> Call:
        module.eval()

        def call() -> None:
            use(kernel)
            with torch.inference_mode():
                module(x)

        return call

    return {name: of(*each) for name, each in contenders(x.shape[1]).items()}


def step_of(kernel: str, module: nn.Module, x: Tensor) -> Call:
    """A forward and a backward to x and every parameter."""
    module.train()
    leaf, grad = x.clone(memory_format=torch.preserve_format).requires_grad_(), torch.randn_like(x)

    def call() -> None:
        use(kernel)
        leaf.grad = None
        for parameter in module.parameters():
            parameter.grad = None
        module(leaf).backward(grad)

    return call


def training(x: Tensor) -> dict[str, Call]:
    """A training step, the monitor off."""
    return {n: step_of(kernel, module, x) for n, (kernel, module) in contenders(x.shape[1]).items()}


def monitor(x: Tensor) -> dict[str, Call]:
    """The same with the monitor on: between two readings, and read."""
    work = {}
    for preset in ("step3", "step2"):
        for name, on, detailed in (
            ("off", False, False),
            ("on", True, False),
            ("read", True, True),
        ):
            block = CoordCBAM(x.shape[1], BlockConfig.preset(preset))
            block.monitor, block.detailed = on, detailed
            work[f"{preset}, monitor {name}"] = step_of("auto", block, x)
    return work


def onnx(x: Tensor) -> dict[str, Call]:
    """A run of ONNX Runtime, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def of(kernel: str, module: nn.Module) -> Call:
        use(kernel)
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module.eval(), (x,), file, dynamo=False, opset_version=17)
        session = ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        return lambda: session.run(None, feed)

    block = CoordCBAM(x.shape[1], BlockConfig.step2()).eval()
    return {
        "step2, deployed": of("auto", deploy(block)),
        "step2": of("auto", block),
        "notebook": of("plain", block),
    }


TIMED = {"inference": inference, "training": training, "monitor": monitor, "onnx": onnx}


def timed(mode: str, x: Tensor, rounds: int) -> Iterator[dict[str, Any]]:
    """A row a contender, all of them taking turns."""
    target = torch.empty_like(x)
    work = {"copy": lambda: target.copy_(x), **TIMED[mode](x)}
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 3):
        for name, call in work.items():
            repeats = 5 if name == "copy" else 1
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            if turn >= 3:
                times[name].append((time.perf_counter() - started) / repeats)
    copy = statistics.median(times["copy"])
    for name, each in times.items():
        low, middle, high = (statistics.quantiles(each, n=10)[i] * 1e6 for i in (1, 4, 7))
        row = {"contender": name, "p20_us": low, "p50_us": middle, "p80_us": high}
        yield row | {"ratio": middle / 1e6 / copy}


def saved(x: Tensor) -> Iterator[dict[str, Any]]:
    """Bytes that a forward keeps for its backward, without parameters, over those of x."""
    for name, (kernel, module) in contenders(x.shape[1]).items():
        use(kernel)
        module.train()
        own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
        kept: dict[int, int] = {}

        def keep(t: Tensor, own: set[int] = own, kept: dict[int, int] = kept) -> Tensor:
            storage = t.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = module(x.clone(memory_format=torch.preserve_format).requires_grad_())
        del out
        yield {"contender": name, "ratio": sum(kept.values()) / (x.numel() * x.element_size())}


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    found = {
        "cpu": cpu,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
    packages = importlib.metadata.packages_distributions()
    names = {name: packages.get(name, [None])[0] for name in VERSIONS}
    return found | {n: importlib.metadata.version(p) if p else "" for n, p in names.items()}


def main() -> None:
    """Measure, print the ratios and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    modes = (*TIMED, "saved")
    parser.add_argument(
        "--modes", nargs="+", choices=modes, default=("inference", "training", "saved")
    )
    parser.add_argument("--layout", choices=LAYOUTS, default="NCHW")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    console, rows, about = Console(), [], machine()
    cases = [(mode, shape) for mode in args.modes for shape in SHAPES]
    for mode, shape in track(cases, "measuring", console=console, transient=True):
        x = torch.randn(shape).contiguous(memory_format=LAYOUTS[args.layout])
        use("auto")
        kernel = kernel_for(x, CoordCBAM(shape[1]).side)[0].name
        found = saved(x) if mode == "saved" else timed(mode, x, args.rounds)
        size = "x".join(map(str, shape))
        here = {"mode": mode, "shape": size, "layout": args.layout, "kernel": kernel}
        rows += [{**here, **row, **about} for row in found]
    use("auto")
    for mode in args.modes:
        console.print(table_of(mode, [row for row in rows if row["mode"] == mode]))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("w", newline="") as file:
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
                for row in rows
            )


def table_of(mode: str, rows: list[dict[str, Any]]) -> Table:
    """Ratios, a row a contender and a column a shape."""
    unit = "times x's bytes" if mode == "saved" else "times copy"
    table = Table("", title=f"{mode}, {unit}")
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    for shape in shapes:
        table.add_column(shape, justify="right")
    for name in dict.fromkeys(row["contender"] for row in rows):
        found = {row["shape"]: row["ratio"] for row in rows if row["contender"] == name}
        table.add_row(name, *(f"{found[shape]:.2f}" for shape in shapes))
    return table


if __name__ == "__main__":
    if not STEADY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **STEADY})
    main()
