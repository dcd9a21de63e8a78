"""Exported blocks in ONNX Runtime: times next to a ``copy_``, and how many nodes a graph has."""

import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coordcbam.bench.blocks import CPU, copy_of
from coordcbam.bench.cases import Case
from coordcbam.bench.peers import Contender, kernel_kept, with_deployed
from coordcbam.bench.rows import COPY, Row, timed_rows
from coordcbam.bench.timing import Call, Length, clock_for, interleaved

NEEDED = ("onnx", "onnxruntime")


def missing() -> str | None:
    """Why nothing can be exported and run here; None if it can."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


def exporter() -> str:
    """Which of PyTorch's exporters can run: the one through torch.export needs onnxscript."""
    return "trace" if importlib.util.find_spec("onnxscript") is None else "dynamo"


def onnx(case: Case, among: Sequence[Contender], length: Length) -> list[Row]:
    """Each block's graph, ours deployed too, for maps of this size: times, then node counts."""
    x = case.maps(CPU)
    calls, nodes, kernels = {COPY: copy_of(x)}, {}, {}
    with tempfile.TemporaryDirectory() as folder, kernel_kept():
        for contender in with_deployed(among):
            contender.choose()
            path = Path(folder) / f"{contender.name}.onnx"
            export(contender.made(case, CPU).eval(), x, path)
            calls[contender.name] = session(path, x)
            nodes[contender.name] = count(path)
            kernels[contender.name] = contender.kernel
        times = interleaved(calls, length, clock_for(CPU))
    note = f"{exporter()} export"
    rows = timed_rows("onnx", case, times, kernels, note)
    return rows + [
        Row(
            mode="onnx nodes",
            shape=case.shape,
            layout=case.layout,
            contender=name,
            kernel=kernels[name],
            value=float(found),
            unit="nodes",
            note=note,
        )
        for name, found in nodes.items()
    ]


def export(block: nn.Module, x: Tensor, path: Path) -> None:
    """Write the graph of an evaluating block for maps of the size of ``x``."""
    names: Any = {"input_names": ["x"], "output_names": ["out"]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about deprecated paths inside the exporters
        if exporter() == "dynamo":
            torch.onnx.export(block, (x,), str(path), dynamo=True, verbose=False, **names)
        else:
            torch.onnx.export(block, (x,), str(path), dynamo=False, **names)


def session(path: Path, x: Tensor) -> Call:
    """A run of the graph from and into memory that is bound to it, in PyTorch's thread count."""
    onnxruntime = importlib.import_module("onnxruntime")  # it has no types

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    ran = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    numbers = x.contiguous().numpy()
    binding = ran.io_binding()
    binding.bind_cpu_input(ran.get_inputs()[0].name, numbers)
    for output in ran.get_outputs():
        binding.bind_output(output.name, "cpu")

    def run(_keeps: object = numbers) -> None:
        ran.run_with_iobinding(binding)

    return Call(run)


def count(path: Path) -> int:
    """Nodes of the graph."""
    import onnx as package

    return len(package.load(str(path)).graph.node)
