"""Which kernel does the arithmetic: one table, one choice for the process, a reason for each."""

import functools
import logging
import os

import torch
from torch import Tensor

from coordcbam._support.errors import UsageError, nearest
from coordcbam.kernels import algebra, cpu, library, nets, opened, triton_passes
from coordcbam.kernels.fused import Fused
from coordcbam.kernels.opened import Opened
from coordcbam.kernels.ops import Attended, Kernel, SideNet
from coordcbam.kernels.plain import Plain

AUTO = "auto"
_log = logging.getLogger("coordcbam")


def _nothing(*_: object) -> None:
    """No reason against a kernel."""


def _opaque(x: Tensor, side: SideNet) -> str | None:  # noqa: ARG001
    return side.opaque


def _cpu_refuses(x: Tensor, side: SideNet) -> str | None:
    weights = side.tensors[0].dtype
    if weights != x.dtype and not cpu.unfit(x):  # autocast brings them together
        return f"the weights are {weights}, not torch.float32"
    return cpu.supports(x) or _side_refuses(x, side)


def _triton_refuses(x: Tensor, side: SideNet) -> str | None:
    return triton_passes.supports(x) or _side_refuses(x, side)


def _side_refuses(x: Tensor, side: SideNet) -> str | None:
    if side.gates_places:
        return "the block has a spatial gate"
    if side.signed:
        return "a channel's factor may be negative (beta_ca > 1)"
    return _opaque(x, side)


def _attend_algebra(x: Tensor, side: SideNet) -> Attended:
    traced = _traced(x)
    if traced or side.gates_places or side.signed:
        return Opened(x, side, opened.PASSES, traced=traced)
    return Fused(x, side, algebra.PASSES)


def _attend_cpu(x: Tensor, side: SideNet) -> Attended:
    if _traced(x):
        return Opened(x, side, _compiled_passes(), traced=True)
    return Fused(library.dense(x), side, cpu.PASSES, nets)


def _attend_triton(x: Tensor, side: SideNet) -> Attended:
    if _traced(x):
        return Opened(x, side, _compiled_passes(), traced=True)
    return Fused(library.dense(x), side, triton_passes.PASSES)


def _compiled_passes() -> opened.Passes:
    """Our operators in what is compiled for this machine; PyTorch's own in what leaves it."""
    if torch.compiler.is_compiling() and not _exported():
        return library.PASSES
    return opened.PASSES


def _traced(x: Tensor) -> bool:
    """Whether every operation must be PyTorch's own: it is recorded, transformed or not real."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or type(x) not in (Tensor, torch.nn.Parameter)
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _exported() -> bool:
    asked = getattr(torch.compiler, "is_exporting", None)  # new in PyTorch 2.8
    return bool(asked and asked())


KERNELS: dict[str, Kernel] = {
    "plain": Kernel(name="plain", missing=_nothing, refuses=_nothing, attend=Plain),
    "algebra": Kernel(name="algebra", missing=_nothing, refuses=_opaque, attend=_attend_algebra),
    "cpu": Kernel(name="cpu", missing=cpu.missing, refuses=_cpu_refuses, attend=_attend_cpu),
    "triton": Kernel(
        name="triton",
        missing=triton_passes.missing,
        refuses=_triton_refuses,
        attend=_attend_triton,
    ),
}
# What a device has beyond PyTorch itself.
_OWN = {"cpu": "cpu", "cuda": "triton"}


def _named(name: str) -> str:
    """The name, if there is such a kernel and this machine can run it."""
    if name == AUTO:
        return name
    if name not in KERNELS:
        raise UsageError(f"kernel {name!r}: expected one of {nearest(name, [AUTO, *KERNELS])}")
    reason = KERNELS[name].missing()
    if reason is not None:
        raise UsageError(f"kernel {name!r} cannot run here: {reason}; or choose 'auto'")
    return name


def use(name: str) -> None:
    """Choose the kernel for every block of this process, by name (or ``COORDCBAM_KERNEL``).

    Args:
        name: "plain", "algebra", "cpu", "triton", or "auto": the fastest that can take the input.

    Raises:
        UsageError: no kernel of that name, or one that this machine cannot run.
    """
    global _chosen  # noqa: PLW0603  (one switch for the process, as the environment variable is)
    _chosen = _named(name)


def chosen() -> str:
    """What :func:`use` or the environment has chosen.

    >>> chosen()
    'auto'
    """
    return _chosen


def kernel_for(x: Tensor, side: SideNet) -> tuple[Kernel, str | None]:
    """The kernel that attends to ``x``, and why it is not the device's own; None where it is.

    Raises:
        UsageError: the kernel that was chosen by name cannot take ``x``.
    """
    if _chosen != AUTO:
        kernel = KERNELS[_chosen]
        reason = kernel.refuses(x, side)
        if reason is not None:
            raise UsageError(f"kernel {_chosen!r}: {reason}; choose 'auto' or another")
        return kernel, f"chosen by name: {_chosen}"
    own = KERNELS.get(_OWN.get(x.device.type, ""))
    reason = f"{x.device.type} has no kernels of its own"
    if own is not None:
        found = own.refuses(x, side)
        if found is None:
            return own, None
        reason = found
    opaque = side.opaque
    if opaque is not None:
        return KERNELS["plain"], opaque
    return KERNELS["algebra"], reason


def attend(x: Tensor, side: SideNet) -> Attended:
    """``x`` and what the block makes of it, by the kernel that is chosen for it."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        # What is recorded runs elsewhere, and its sizes are no numbers to choose by.
        plain = _chosen == "plain" or side.opaque is not None
        return KERNELS["plain" if plain else "algebra"].attend(x, side)
    kernel, reason = kernel_for(x, side)
    if _chosen == AUTO and reason is not None and not torch.compiler.is_compiling():
        _log_once(kernel.name, reason)
    return kernel.attend(x, side)


@functools.cache
def _log_once(name: str, reason: str) -> None:
    _log.info("blocks use the kernel %r: %s", name, reason)


_chosen = _named(os.environ.get("COORDCBAM_KERNEL", AUTO))
