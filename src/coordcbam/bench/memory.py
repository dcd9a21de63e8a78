"""Bytes, as multiples of x: what a block saves for its backward, and what it needs at its peak."""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from coordcbam.bench.blocks import CPU, step_of, without_gradients
from coordcbam.bench.cases import Case
from coordcbam.bench.peers import Contender, kernel_kept
from coordcbam.bench.rows import Row

TIMES_X = "times x"


def saved(case: Case, among: Sequence[Contender]) -> list[Row]:
    """What stays in memory between forward and backward."""
    x = case.maps(CPU).requires_grad_()
    rows = []
    for contender in _chosen(among):
        block = contender.made(case, CPU).train()
        kernel = contender.ran(block, x)
        rows.append(_row("saved", case, contender.name, kernel, saved_bytes(block, x) / _bytes(x)))
    return rows


def saved_bytes(block: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps of one forward, each storage once, without weights and buffers.

    ``x`` counts if it is kept: in a network it is another layer's output. A custom function counts
    by what it hands to ``save_for_backward``.

    >>> saved_bytes(nn.Sigmoid(), torch.ones(2, 3, requires_grad=True))
    24
    """
    ours = {_key(t) for t in (*block.parameters(), *block.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors too, lest another one gets a freed one's address

    def pack(tensor: Tensor) -> Tensor:
        if (key := _key(tensor)) not in ours:
            kept[key] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak(case: Case, among: Sequence[Contender]) -> list[Row]:
    """What PyTorch's allocator hands out beyond x and its gradient's source, at the highest point.

    An inference's and a training step's, outputs and gradients included. Exact and repeatable:
    every block of memory that PyTorch takes or frees is an event. What a library allocates for
    itself (a convolution's scratch memory) is none.
    """
    x, grad = case.maps(CPU), case.maps(CPU, seed=1)
    leaf = x.clone().requires_grad_()
    rows = []
    for contender in _chosen(among):
        block = contender.made(case, CPU)
        step, forget = step_of(block, leaf, grad), without_gradients(block, leaf)
        block.eval()
        with torch.inference_mode():
            found = {"peak inference": peak_bytes(lambda block=block: block(x))}  # type: ignore[misc]
        block.train()
        found["peak training"] = peak_bytes(step, forget)
        forget()
        name, kernel = contender.name, contender.ran(block, x)
        rows += [_row(mode, case, name, kernel, each / _bytes(x)) for mode, each in found.items()]
    return rows


def peak_bytes(run: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> int:
    """The most memory that ``run`` has at one time; a first run, uncounted, warms up.

    >>> peak_bytes(lambda: torch.ones(1024).exp().neg())  # never more than two at a time
    8192
    """
    prepare()
    run()
    prepare()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = run()  # noqa: F841  (its output is in memory, too)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        found.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    taken = [event for event in events if event.get("name") == "[memory]"]
    taken.sort(key=lambda event: event["ts"])
    return highest(int(event["args"]["Bytes"]) for event in taken)


def highest(changes: Iterable[int]) -> int:
    """The highest level that the changes reach from 0.

    >>> highest([3, 4, -4, 2])
    7
    """
    level = top = 0
    for change in changes:
        level += change
        top = max(top, level)
    return top


def _chosen(among: Sequence[Contender]) -> Iterable[Contender]:
    """Each contender, with its kernel chosen."""
    with kernel_kept():
        for contender in among:
            contender.choose()
            yield contender


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _row(mode: str, case: Case, contender: str, kernel: str | None, value: float) -> Row:
    return Row(
        mode=mode,
        shape=case.shape,
        layout=case.layout,
        contender=contender,
        kernel=kernel,
        value=value,
        unit=TIMES_X,
    )
