"""What blocks add to the latency of a whole detector, eager and in ONNX Runtime."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from coordcbam.bench.blocks import CPU
from coordcbam.bench.cases import Case
from coordcbam.bench.graphs import session
from coordcbam.bench.peers import Contender, kernel_kept
from coordcbam.bench.rows import Row
from coordcbam.bench.timing import Call, Length, clock_for, interleaved, spread_of
from coordcbam.block import BlockConfig

WITHOUT = "without blocks"


class Detector(NamedTuple):
    """An evaluating network, and how its host exports it into a folder."""

    network: nn.Module
    export: Callable[[Path], Path]


# The host's own: whoever knows a framework builds the detector, with blocks of a config or without.
Host = Callable[[BlockConfig | None], Detector]


def eager(host: Host, case: Case, among: Sequence[Contender], length: Length) -> list[Row]:
    """The network in inference mode."""
    x = case.maps(CPU)
    calls = {WITHOUT: _forward(host(None).network, x)}
    for contender in _ours(among):
        network = host(contender.config).network
        calls[contender.name] = _forward(network, x, contender)
    with kernel_kept(), torch.inference_mode():
        times = interleaved(calls, length, clock_for(CPU))
    return added_rows("yolo eager", case, times, among)


def onnx(host: Host, case: Case, among: Sequence[Contender], length: Length) -> list[Row]:
    """The host's own export, as a user would make it: the inference form, whatever the kernel."""
    x = case.maps(CPU)
    calls = {}
    with tempfile.TemporaryDirectory() as folder, kernel_kept():
        for contender in (None, *(c for c in _ours(among) if c.kernel != "plain")):
            name = WITHOUT if contender is None else contender.name
            if contender is not None:
                contender.choose()
            inside = Path(folder) / name.replace(" ", "-")
            inside.mkdir()
            made = host(None if contender is None else contender.config)
            calls[name] = session(made.export(inside), x)
        times = interleaved(calls, length, clock_for(CPU))
    return added_rows("yolo onnx", case, times, among)


def added_rows(
    mode: str, case: Case, times: Mapping[str, list[float]], among: Sequence[Contender]
) -> list[Row]:
    """Times, and the median over rounds of what each adds to the network without blocks."""
    kernels = {contender.name: contender.kernel for contender in among}
    bare = times[WITHOUT]
    return [
        Row(
            mode=mode,
            shape=case.shape,
            layout=case.layout,
            contender=name,
            kernel=kernels.get(name),
            times=spread_of([1e6 * t for t in each]),
            value=1e6 * statistics.median(a - b for a, b in zip(each, bare, strict=True)),
            unit="us added",
        )
        for name, each in times.items()
    ]


def _ours(among: Sequence[Contender]) -> list[Contender]:
    return [contender for contender in among if contender.config is not None]


def _forward(network: nn.Module, x: torch.Tensor, contender: Contender | None = None) -> Call:
    network.eval()
    run = Call(lambda: network(x))
    return run if contender is None else run._replace(prepare=contender.choose)
