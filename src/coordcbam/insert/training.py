"""What a training loop does for its blocks: close a step, group parameters, average weights."""

import math
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from coordcbam._support.errors import UsageError, shown
from coordcbam.block.guard import Guard
from coordcbam.block.target import commit
from coordcbam.insert.attach import blocks, check_model, guarded

_STATE = ("r_ema", "updates", "skipped")


def commit_(model: nn.Module) -> None:
    """Close a step: what the blocks tallied since the last one moves each ``r_ema`` once.

    Call it after each optimizer step, on every process of a distributed training; ``Monitor.step``
    and the hosts do. Without it the rescue of step 3 and of a guard keeps its last average.

    >>> from coordcbam import CoordCBAM
    >>> block = CoordCBAM(8)
    >>> block.monitor = True
    >>> for _ in range(4):  # four micro-batches, one step
    ...     _ = block(torch.randn(2, 8, 6, 6))
    >>> commit_(block)
    >>> block.updates
    tensor(1)
    """
    check_model(model)
    commit([block for block in guarded(model) if block.targets])


def commit_on_step(optimizer: torch.optim.Optimizer, model: nn.Module) -> RemovableHandle:
    """Have every ``optimizer.step()`` followed by :func:`commit_`; ``remove()`` ends that.

    >>> from coordcbam import CoordCBAM
    >>> block = CoordCBAM(8)
    >>> handle = commit_on_step(torch.optim.SGD(block.parameters(), lr=0.1), block)
    """

    def hook(_optimizer: Any, _args: Any, _kwargs: Any) -> None:
        commit_(model)

    return optimizer.register_step_post_hook(hook)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: matrices and filters decay; biases, norms and scalars do not.

    The blocks' learnable strengths and temperature are scalars, which a decay would pull to the
    middle of their range.

    >>> from coordcbam import CoordCBAM
    >>> groups = parameter_groups(CoordCBAM(8), 0.05)
    >>> [(group["weight_decay"], len(group["params"])) for group in groups]
    [(0.05, 14), (0.0, 14)]
    """
    check_model(model)
    decay: Any = weight_decay
    number = isinstance(decay, (int, float)) and not isinstance(decay, bool)
    if not number or not 0.0 <= decay < math.inf:
        raise UsageError(f"weight_decay={shown(weight_decay)}: expected a finite number >= 0")
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.dim() > 1 else spared).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def scalars(model: nn.Module) -> list[nn.Parameter]:
    """The blocks' own learnable scalars: strengths and temperature, each bounded by a map."""
    return [
        parameter
        for _, block in blocks(model)
        for name, parameter in block.named_parameters()
        if parameter.dim() == 0 and not name.startswith("inner.")
    ]


@torch.no_grad()
def copy_monitor_state_(source: nn.Module, target: nn.Module) -> None:
    """Give the blocks of ``target`` the averages and counters of those of ``source``.

    For a weight-averaged copy: an average of an average is late, and hosts do not average counters.
    Call it before the copy is validated or saved.
    """
    live = {_bare(path): block for path, block in blocks(source)}
    for path, block in blocks(target):
        twin = live.get(_bare(path))
        for name in _STATE:
            if twin is not None and name in block._buffers and name in twin._buffers:
                getattr(block, name).copy_(getattr(twin, name))
        if isinstance(block, Guard) and isinstance(twin, Guard):
            block.overwrites = twin.overwrites


def _bare(path: str) -> str:
    """A path without the wrapper of a parallel or an averaged model."""
    return path.removeprefix("module.")
