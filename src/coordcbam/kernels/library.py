"""The passes as operators of PyTorch, ``torch.ops.coordcbam``: what a compiled graph calls.

Eagerly a block calls the passes themselves, without the dispatcher's cost. Each operator takes the
fastest passes for its input and falls back to PyTorch's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coordcbam.kernels import algebra, cpu, triton_passes
from coordcbam.kernels.opened import Passes as Open
from coordcbam.kernels.passes import Factors, Passes, Shape, Statistics

_Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
_Four = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("coordcbam::profile", mutates_args=())
def profile(x: Tensor) -> _Six:
    """The statistics of x: see :class:`Statistics`."""
    x = dense(x)
    return tuple(_passes(x).profile(x))  # type: ignore[return-value]


@torch.library.custom_op("coordcbam::profile_gradient", mutates_args=())
def profile_gradient(x: Tensor, found: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """The gradient of x from those of its statistics."""
    x = dense(x)
    statistics = Statistics(*found)
    neutral = Factors(*(torch.ones_like(t) for t in (found[0], found[2], found[4])))
    nothing, one = torch.zeros_like(x), x.new_ones(())
    shape = Shape(1.0, float("-inf"), float("inf"))
    return _passes(x).input(nothing, x, neutral, shape, one, statistics, Statistics(*grads))


@torch.library.custom_op("coordcbam::scale", mutates_args=())
def scale(
    x: Tensor,
    channel: Tensor,
    rows: Tensor,
    cols: Tensor,
    alpha: Tensor,
    shape: Sequence[float],
) -> Tensor:
    """``x * (1 + alpha * (g - 1))``."""
    x = dense(x)
    return _passes(x).scale(x, Factors(channel, rows, cols), Shape(*shape), alpha)


@torch.library.custom_op("coordcbam::measure", mutates_args=())
def measure(
    x: Tensor,
    channel: Tensor,
    rows: Tensor,
    cols: Tensor,
    alpha: Tensor,
    shape: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """The same, and the sums of :mod:`.energies` in float64, (5, B)."""
    x = dense(x)
    factors = Factors(channel, rows, cols)
    out, sums = _passes(x).measure(x, factors, Shape(*shape), alpha)
    return out, sums.double().contiguous()


@torch.library.custom_op("coordcbam::factor_gradients", mutates_args=())
def factor_gradients(
    grad: Tensor,
    x: Tensor,
    channel: Tensor,
    rows: Tensor,
    cols: Tensor,
    alpha: Tensor,
    shape: Sequence[float],
) -> _Four:
    """The gradients of channel, rows, cols and alpha."""
    x = dense(x)
    factors = Factors(channel, rows, cols)
    found, by_alpha = _passes(x).factors(grad, x, factors, Shape(*shape), alpha)
    return (*found, by_alpha.to(alpha.dtype))


def dense(x: Tensor) -> Tensor:
    """``x`` in one of the layouts that every pass reads."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _passes(x: Tensor) -> Passes:
    for found, unable in (
        (cpu.PASSES, cpu.supports),
        (triton_passes.PASSES, triton_passes.supports),
    ):
        if unable(x) is None:
            return found
    return algebra.PASSES


@profile.register_fake
def _(x: Tensor) -> _Six:
    batch, channels, height, width = x.shape
    whole = [x.new_empty(batch, channels) for _ in range(2)]
    rows = [x.new_empty(batch, channels, height) for _ in range(2)]
    cols = [x.new_empty(batch, channels, width) for _ in range(2)]
    return (*whole, *rows, *cols)  # type: ignore[return-value]


@profile_gradient.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(dense(x))


@scale.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(dense(x))


@measure.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dense(x)), x.new_empty(5, x.shape[0], dtype=torch.float64)


@factor_gradients.register_fake
def _(grad: Tensor, x: Tensor, *rest: Any) -> _Four:  # noqa: ARG001
    channel, rows, cols, alpha = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in rest[:4]
    )
    return channel, rows, cols, alpha


def _keep_profile(ctx: Any, inputs: tuple[Tensor], output: _Six) -> None:
    ctx.save_for_backward(*inputs, *output)


def _profile_backward(ctx: Any, *grads: Tensor | None) -> Tensor:
    x, *found = ctx.saved_tensors
    filled = [torch.zeros_like(t) if g is None else g for t, g in zip(found, grads, strict=True)]
    gradient: Tensor = profile_gradient(x, found, filled)
    return gradient


def _keep_scale(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:5])
    ctx.shape = inputs[5]


def _scale_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, *factors = ctx.saved_tensors
    by_factors = factor_gradients(grad, x, *factors, ctx.shape)
    return scale(grad, *factors, ctx.shape), *by_factors, None


profile.register_autograd(_profile_backward, setup_context=_keep_profile)
scale.register_autograd(_scale_backward, setup_context=_keep_scale)
measure.register_autograd(_scale_backward, setup_context=_keep_scale)


def _profile(x: Tensor) -> Statistics:
    return Statistics(*profile(x))


def _scale(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> Tensor:
    found: Tensor = scale(x, *factors, alpha, shape)
    return found


def _measure(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = measure(x, *factors, alpha, shape)
    return found


PASSES = Open(profile=_profile, scale=_scale, measure=_measure)
