"""What blocks cost: parameters, operations, time and memory, against the model without them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from coordcbam.bench.memory import saved_bytes
from coordcbam.bench.peers import PLAIN, kernel_kept
from coordcbam.bench.timing import Call, Length, clock_for, interleaved, spread_of, threads
from coordcbam.kernels import use
from coordcbam.preflight.result import Figure
from coordcbam.preflight.trial import KEY, Trial, as_it_trains, called, copied, tensors_of

LENGTH = Length(seconds=0.6, least=8, most=60, warm_up=2)


class Price(NamedTuple):
    """What blocks add: see ``UNITS``; and the operations of each by the path of its place."""

    flops_at: dict[str, int]
    parameters: int
    flops: int
    elementwise: int
    latency_ms: Figure
    latency_ratio: Figure
    memory_bytes: int | None


class Work(NamedTuple):
    """Of one forward.

    ``flops`` are 2 a multiplication and addition in matrix products and convolutions, and
    ``elementwise`` the elements that every other operation writes or, where it reduces, reads.
    """

    flops: int
    elementwise: int


class Base(NamedTuple):
    """The model without blocks in eval mode, and what one forward of one sample is to it.

    ``kept_bytes`` are kept for a backward; None where the model cannot be run so.
    """

    model: nn.Module
    work: Work
    kept_bytes: int | None


class _Elements(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements of what PyTorch's counter of operations leaves out."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket not in flop_registry and not getattr(func, "is_view", False):
            numbers = [t.numel() for t in (*tensors_of(out), *tensors_of(args))]
            self.total += max(numbers, default=0)
        return out


def base_of(model: nn.Module, batch: Any) -> Base:
    """Measured on a copy, which is kept: a score may change its network."""
    plain, sample = copied(model).eval(), one_of(batch)
    return Base(plain, work(plain, sample)[0], kept_bytes(plain, sample))


def added(made: Trial, base: Base, batch: Any) -> Price:
    """What the blocks of a trial add to the model without them, for one sample."""
    sample = one_of(batch)
    after, flops_of = work(made.model, sample)
    milliseconds, ratio = latency(made.model, base.model, sample)
    kept = kept_bytes(made.model, sample)
    return Price(
        flops_at={path: flops_of.get(f"{path}.{KEY}", 0) for path in made.blocks},
        parameters=parameters(made.blocks.values()),
        flops=after.flops - base.work.flops,
        elementwise=after.elementwise - base.work.elementwise,
        latency_ms=milliseconds,
        latency_ratio=ratio,
        memory_bytes=None if kept is None or base.kept_bytes is None else kept - base.kept_bytes,
    )


def work(model: nn.Module, inputs: Any) -> tuple[Work, dict[str, int]]:
    """The work of one forward of ``model``, which is in eval mode, in the notebook's arithmetic.

    That arithmetic is PyTorch's own operations, each of which is counted; the fast kernels do less.
    With it come the ``flops`` of each module inside, by its path.

    >>> work(nn.Conv2d(3, 4, 1).eval(), torch.ones(1, 3, 2, 2))
    (Work(flops=96, elementwise=0), {})
    """
    elements: Any = _Elements()  # type: ignore[no-untyped-call]
    counter = FlopCounterMode(display=False)
    with in_plain(), torch.no_grad(), elements, counter:
        called(model, inputs)
    root = f"{type(model).__name__}."
    inside = {
        name.removeprefix(root): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.startswith(root)
    }
    return Work(counter.get_total_flops(), elements.total), inside


@contextmanager
def in_plain() -> Iterator[None]:
    """Inside the ``with`` our blocks are operations that PyTorch's counters see."""
    with kernel_kept():
        use(PLAIN)
        yield


def one_of(batch: Any) -> Any:
    """The first sample of a batch; of a list of images (C, H, W), the first of them.

    >>> one_of((torch.ones(4, 3), 7))[0].shape
    torch.Size([1, 3])
    >>> [image.shape for image in one_of([torch.ones(3, 8, 8), torch.ones(3, 6, 6)])]
    [torch.Size([3, 8, 8])]
    """
    if isinstance(batch, list) and all(isinstance(t, Tensor) and t.dim() == 3 for t in batch):
        return batch[:1]
    if isinstance(batch, (tuple, list)):
        return (tuple if isinstance(batch, tuple) else list)(one_of(each) for each in batch)
    if isinstance(batch, dict):
        return {key: one_of(value) for key, value in batch.items()}
    return batch[:1] if isinstance(batch, Tensor) and batch.dim() else batch


def latency(made: nn.Module, without: nn.Module, inputs: Any) -> tuple[Figure, Figure]:
    """Milliseconds added to a forward, and its time over that without: medians over rounds.

    Both take turns, so whatever the machine does, it does to both; on the CPU in one thread, which
    waits for no other.
    """
    calls = {"with": Call(_forward(made, inputs)), "without": Call(_forward(without, inputs))}
    device = next((t.device for t in made.parameters()), torch.device("cpu"))
    with torch.inference_mode(), threads(1):
        times = interleaved(calls, LENGTH, clock_for(device))
    pairs = list(zip(times["with"], times["without"], strict=True))
    return _middle([1e3 * (a - b) for a, b in pairs]), _middle([a / b for a, b in pairs])


def _forward(model: nn.Module, inputs: Any) -> Callable[[], object]:
    return lambda: called(model, inputs)


def _middle(values: list[float]) -> Figure:
    spread = spread_of(values)
    return Figure(mean=spread.p50, low=spread.p20, high=spread.p80)


class _Called(nn.Module):
    """A model whose first argument is the one that counts."""

    def __init__(self, model: nn.Module, rest: tuple[Any, ...]) -> None:
        super().__init__()
        self.model, self.rest = model, rest

    def forward(self, x: Tensor) -> Any:
        return self.model(x.clone(), *self.rest)


def kept_bytes(model: nn.Module, inputs: Any) -> int | None:
    """Bytes that the backward of one forward keeps; None where a model cannot be run so."""
    x, *rest = inputs if isinstance(inputs, tuple) else (inputs,)
    if not isinstance(x, Tensor):
        return None
    if x.is_floating_point():
        x = x.detach().clone().requires_grad_()
    as_it_trains(model)
    try:
        with torch.enable_grad():
            return saved_bytes(_Called(model, tuple(rest)), x)
    except Exception:  # in train mode a model may want more than its input
        return None
    finally:
        model.eval()


def parameters(modules: Any) -> int:
    """The parameters of all these modules, each once."""
    found = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(found.values())
