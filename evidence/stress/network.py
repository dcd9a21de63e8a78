"""The stack, and what its first step shows of the signal and of the gradient."""

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10
_OF_BLOCKS = 1_000_003  # blocks draw from a stream of their own


class Stack(nn.Module):
    """A stem, ``depth`` times (conv3x3, ReLU, block), a mean and a linear layer; no normalisation.

    Convolutions are drawn by He's rule with biases 0. The backbone depends on ``seed`` alone,
    whatever the blocks draw.

    Args:
        build: makes one block for a width.
        channels: width of every map.
        depth: number of blocks.
        seed: of the backbone and of the blocks.
    """

    def __init__(
        self, build: Callable[[int], nn.Module], *, channels: int, depth: int, seed: int
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(_he(1, channels), nn.ReLU())
        self.convs = nn.ModuleList(_he(channels, channels) for _ in range(depth))
        self.head = nn.Linear(channels, CLASSES)
        torch.manual_seed(seed + _OF_BLOCKS)
        self.blocks = nn.ModuleList(build(channels) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """The classes' logits, (B, 10), of pictures (B, 1, H, W)."""
        x = self.stem(x)
        for conv, block in zip(self.convs, self.blocks, strict=True):
            x = block(F.relu(conv(x)))
        return self.head(x.mean(dim=(2, 3)))


def _he(before: int, after: int) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return conv


class Probe:
    """Inside its ``with``, the signals and gradients of one training step of a :class:`Stack`."""

    def __init__(self, net: Stack) -> None:
        self._kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._net = net
        self._handles: list[Any] = []

    def __enter__(self) -> "Probe":
        for module in (self._net.stem, *self._net.blocks):
            self._handles.append(module.register_forward_hook(self._keep))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        output.retain_grad()
        self._kept[module] = inputs[0].detach(), output

    @property
    def log_stack_gain(self) -> float:
        """Sum over the blocks of ``log(rms(out) / rms(in))``; 0 when no block changes the size."""
        kept = (self._kept[block] for block in self._net.blocks)
        return sum(math.log((after.norm() / before.norm()).item()) for before, after in kept)

    @property
    def gradient_gain(self) -> float:
        """``rms`` of the gradient at the stem's output over that at the last block's."""
        first, last = (self._kept[m][1].grad for m in (self._net.stem, self._net.blocks[-1]))
        assert first is not None
        assert last is not None
        return (first.norm() / last.norm()).item()
