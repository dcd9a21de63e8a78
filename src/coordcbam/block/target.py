"""The target rescue: weaken a block just so far that it keeps ``r_min`` of its signal.

A training forward adds its batch to a tally; :func:`commit` turns the tallies into one step of
each average, once an optimizer step and alike on every process. Forwards read the average and never
move it, so train, eval, export and a recomputed pass are one function.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed
from torch import Tensor

from coordcbam.kernels.told import commit as commit_one
from coordcbam.kernels.told import commits

TALLY = 4  # sum of rho, samples in it, batches that were not finite, batches without a signal


class Averaged(Protocol):
    """What :func:`commit` moves: a tally, and the average with its two counters."""

    tally: Tensor  # (4,), of this process alone
    r_ema: Tensor
    updates: Tensor
    skipped: Tensor

    @property
    def momentum(self) -> float:
        """The average's momentum, in (0, 1)."""


def share(r_hat: Tensor, r_min: float, r_max: float | None) -> Tensor:
    """``clamp((1 - r_min) / (1 - r_hat), 0, 1)``: how much of alpha is left, 0-dim.

    The mix is linear in alpha, so a block that would keep ``r_hat`` keeps ``r_min`` with this share
    of its alpha. It is 1 from ``r_min`` up, and continuous there. ``r_max`` mirrors it above 1.

    >>> share(torch.tensor([0.2, 0.8, 1.0, 3.0]), 0.6, 2.0)
    tensor([0.5000, 1.0000, 1.0000, 0.5000])
    """
    tiny = torch.finfo(r_hat.dtype).tiny
    left = ((1.0 - r_min) / (1.0 - r_hat).clamp(min=tiny)).clamp(max=1.0)
    if r_max is not None:
        left = torch.minimum(left, (r_max - 1.0) / (r_hat - 1.0).clamp(min=tiny))
    return left


def share_of(r_hat: float, r_min: float, r_max: float | None) -> float:
    """The same of a number that is at hand.

    >>> [share_of(r_hat, 0.6, 2.0) for r_hat in (0.2, 0.8, 1.0, 3.0)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if r_hat != r_hat:  # noqa: PLR0124  (a NaN stays one)
        return r_hat
    if r_hat < r_min:
        return (1.0 - r_min) / (1.0 - r_hat)
    return 1.0 if r_max is None or r_hat <= r_max else (r_max - 1.0) / (r_hat - 1.0)


def commit(blocks: Sequence[Averaged]) -> None:
    """One step of every average from the batches tallied since the last; tallies start afresh.

    ``r_ema`` is the bias-corrected average, so its weight for the new mean is
    ``(1 - m) / (1 - m ** (n + 1))`` after n updates. It stays where a step has no usable sample, or
    where a process has had none but batches that are not finite: one process with the joined batch
    would have had none either. ``skipped`` counts the steps with a batch that was not finite, and
    those without any signal. Under ``torch.distributed`` every process must call this.
    """
    if not blocks:
        return
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not together and all(commits(*_state(block)) for block in blocks):
        for block in blocks:
            commit_one(*_state(block), block.momentum)
        return
    _commit_together(blocks, together=together)


@torch.no_grad()
def _commit_together(blocks: Sequence[Averaged], *, together: bool) -> None:
    """The same in operations of PyTorch, over all processes if ``together``."""
    first = blocks[0].tally
    tallies = torch.stack([block.tally.to(first) for block in blocks])
    lost = (tallies[:, 2] > 0.0) & (tallies[:, 1] == 0.0)
    tallies = torch.cat([tallies, lost[:, None].to(first)], dim=1)
    if together:
        torch.distributed.all_reduce(tallies)
    for m in dict.fromkeys(block.momentum for block in blocks):
        alike = [i for i, block in enumerate(blocks) if block.momentum == m]
        _move([blocks[i] for i in alike], torch.stack([tallies[i] for i in alike]), m)


def _move(blocks: Sequence[Averaged], tallies: Tensor, m: float) -> None:
    """Every average of momentum m, all of them in the same few operations."""
    r_ema = torch.stack([block.r_ema.to(tallies) for block in blocks])
    updates = torch.stack([block.updates.to(tallies.device) for block in blocks])
    total, count, broken, silent, lost = tallies.unbind(dim=1)
    usable = (count > 0.0) & (lost == 0.0)
    weight = (1.0 - m) / (1.0 - m ** (updates + 1).to(tallies))
    r_ema = torch.where(usable, r_ema + weight * (total / count - r_ema), r_ema)
    skipped = (broken > 0.0) | ((silent > 0.0) & (count == 0.0))
    for block, *new in zip(blocks, r_ema, usable, skipped, strict=True):
        block.r_ema.copy_(new[0])
        block.updates.add_(new[1].to(block.updates.device))
        block.skipped.add_(new[2].to(block.skipped.device))
        block.tally.zero_()


def _state(block: Averaged) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return block.tally, block.r_ema, block.updates, block.skipped
