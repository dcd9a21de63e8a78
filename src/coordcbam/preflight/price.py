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

LENGTH = Length(seconds=0.8, least=8, most=60, warm_up=2)


class Price(NamedTuple):
    """What blocks add: see ``UNITS``."""

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


class _Elements(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements of what PyTorch's counter of operations leaves out."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket not in flop_registry and not getattr(func, "is_view", False):
            numbers = [t.numel() for t in (*tensors_of(out), *tensors_of(args))]
            self.total += max(numbers, default=0)
        return out


def added(made: Trial, model: nn.Module, batch: Any, before: Work) -> Price:
    """What the blocks of a trial add to ``model``, whose own work is ``before``, for one sample."""
    sample, without = one_of(batch), Trial(copied(model).eval(), {})
    device = next((t.device for t in model.parameters()), torch.device("cpu"))
    after = work(made.model, sample)
    milliseconds, ratio = latency(made, without, sample, device)
    more, less = kept_bytes(made, sample), kept_bytes(without, sample)
    return Price(
        flops=after.flops - before.flops,
        elementwise=after.elementwise - before.elementwise,
        latency_ms=milliseconds,
        latency_ratio=ratio,
        memory_bytes=None if more is None or less is None else more - less,
    )


def work(model: nn.Module, inputs: Any) -> Work:
    """The work of one forward of ``model``, which is in eval mode, in the notebook's arithmetic.

    That arithmetic is PyTorch's own operations, each of which is counted; the fast kernels do less.

    >>> work(nn.Conv2d(3, 4, 1).eval(), torch.ones(1, 3, 2, 2))
    Work(flops=96, elementwise=0)
    """
    elements: Any = _Elements()  # type: ignore[no-untyped-call]
    counter = FlopCounterMode(display=False)
    with in_plain(), torch.no_grad(), elements, counter:
        called(model, inputs)
    return Work(counter.get_total_flops(), elements.total)


def flops_of(made: Trial, inputs: Any) -> dict[str, int]:
    """Those of each block on trial, by its path, in one forward as for :func:`work`."""
    with in_plain(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        called(made.model, inputs)
    counts, root = counter.get_flop_counts(), type(made.model).__name__
    return {path: sum(counts.get(f"{root}.{path}.{KEY}", {}).values()) for path in made.blocks}


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


def latency(
    trial: Trial, without: Trial, inputs: Any, device: torch.device
) -> tuple[Figure, Figure]:
    """Milliseconds added to a forward, and its time over that without: medians over rounds.

    Both take turns, so whatever the machine does, it does to both; on the CPU in one thread, which
    waits for no other.
    """
    calls = {
        name: Call(_forward(each.model.eval(), inputs))
        for name, each in (("with", trial), ("without", without))
    }
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


def kept_bytes(trial: Trial, inputs: Any) -> int | None:
    """Bytes that the backward of one forward keeps; None where a model cannot be run so."""
    x, *rest = inputs if isinstance(inputs, tuple) else (inputs,)
    if not isinstance(x, Tensor):
        return None
    if x.is_floating_point():
        x = x.detach().clone().requires_grad_()
    as_it_trains(trial.model)
    try:
        with torch.enable_grad():
            return saved_bytes(_Called(trial.model, tuple(rest)), x)
    except Exception:  # in train mode a model may want more than its input
        return None
    finally:
        trial.model.eval()


def parameters(modules: Any) -> int:
    """The parameters of all these modules, each once."""
    found = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(found.values())
