"""Times of single blocks, next to a ``copy_`` of their input: inference and training."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coordcbam.bench.cases import Case
from coordcbam.bench.peers import Contender, kernel_kept
from coordcbam.bench.rows import COPY, Row, timed_rows
from coordcbam.bench.timing import Call, Length, clock_for, interleaved

CPU = torch.device("cpu")


def copy_of(x: Tensor) -> Call:
    """A copy into memory that is there already: the unit of every ratio."""
    target = torch.empty_like(x)
    return Call(lambda: target.copy_(x))


def step_of(block: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """A forward and a backward that gives the gradients of ``x`` and of every parameter."""

    def step() -> None:
        block(x).backward(grad)

    return step


def without_gradients(block: nn.Module, x: Tensor) -> Callable[[], None]:
    """What an optimizer's step leaves: no gradients, and weights of which nothing is known yet."""
    parameters = list(block.parameters())

    @torch.no_grad()
    def forget() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
            parameter.add_(0.0)  # a block that keeps something of its weights makes it anew

    return forget


def inference(
    case: Case, among: Sequence[Contender], length: Length, device: torch.device = CPU
) -> list[Row]:
    """Evaluating blocks in inference mode."""
    x = case.maps(device)
    calls, kernels = {COPY: copy_of(x)}, {}
    for contender in among:
        block = contender.made(case, device).eval()
        kernels[contender.name] = contender.ran(block, x)
        calls[contender.name] = Call(lambda block=block: block(x), contender.choose)  # type: ignore[misc]
    with kernel_kept(), torch.inference_mode():
        times = interleaved(calls, length, clock_for(device))
    return timed_rows("inference", case, times, kernels)


def training(
    case: Case, among: Sequence[Contender], length: Length, device: torch.device = CPU
) -> list[Row]:
    """Training blocks, unwatched: forward and backward."""
    x, grad = case.maps(device).requires_grad_(), case.maps(device, seed=1)
    calls, kernels = {COPY: copy_of(x.detach())}, {}
    for contender in among:
        block = contender.made(case, device).train()
        kernels[contender.name] = contender.ran(block, x)
        calls[contender.name] = _step(contender, block, x, grad)
    with kernel_kept():
        times = interleaved(calls, length, clock_for(device))
    return timed_rows("training", case, times, kernels)


def _step(contender: Contender, block: nn.Module, x: Tensor, grad: Tensor) -> Call:
    forget = without_gradients(block, x)

    def prepare() -> None:
        forget()
        contender.choose()

    return Call(step_of(block, x, grad), prepare)
