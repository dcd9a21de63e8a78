"""What is put into the stack: public blocks, ours, the rescue's cases and the controls."""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import create_attn
from torch import Tensor, nn

from coordcbam import BlockConfig, CoordCBAM, Guard

Build = Callable[[int], nn.Module]

R_MIN = 0.9  # of the guards
CLOSED = -3.0  # logit at which the hard masks reach 0


class DoubledSE(nn.Module):
    """``2 * SE(x)``: a gate of one half is neutral."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.se = create_attn("se", channels)

    def forward(self, x: Tensor) -> Tensor:
        """The gated map, (B, C, H, W)."""
        return 2.0 * self.se(x)


class Damped(nn.Module):
    """``0.9 * x``: what a guard leaves of its block's input, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        """The damped map, (B, C, H, W)."""
        return R_MIN * x


class ReZero(nn.Module):
    """``x + a * (inner(x) - x)`` with a learnable a that starts at 0.

    Source: Bachlechner et al., arXiv 2003.04887, on the mix with the input that our block has.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """The mixed map, (B, C, H, W)."""
        return x + self.a * (self.inner(x) - x)


class Control(nn.Module):
    """``x + W2 silu(W1 x)`` from W2 = 0: no attention, about as many parameters as step 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        budget = parameters(CoordCBAM(channels, BlockConfig.step3()))
        hidden = round((budget - channels) / (2 * channels + 1))
        self.w1 = nn.Conv2d(channels, hidden, 1)
        self.w2 = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.w2.weight)
        nn.init.zeros_(self.w2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The map and its correction, (B, C, H, W)."""
        return x + self.w2(F.silu(self.w1(x)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the table: what it is, in words, and how its block is built."""

    what: str
    build: Build


def parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(parameter.numel() for parameter in module.parameters())


def _timm(name: str) -> Build:
    return lambda channels: create_attn(name, channels)


def _guarded(name: str) -> Build:
    return lambda channels: Guard(create_attn(name, channels), r_min=R_MIN)


def _ours(config: BlockConfig, *, closed: bool = False) -> Build:
    def build(channels: int) -> CoordCBAM:
        block = CoordCBAM(channels, config)
        return _close(block) if closed else block

    return build


@torch.no_grad()
def _close(block: CoordCBAM) -> CoordCBAM:
    for last in (block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head):
        assert last.bias is not None
        last.bias.fill_(CLOSED)
    return block


_STEP2 = BlockConfig.step2()
_STEP3 = BlockConfig.step3().replace(monitor=True)
_WATCH = _STEP3.replace(rescue_mode="watch")

ARMS: dict[str, Arm] = {
    "none": Arm(what="no block", build=lambda _channels: nn.Identity()),
    "timm cbam": Arm(what="`create_attn('cbam')`", build=_timm("cbam")),
    "timm coord": Arm(what="`create_attn('coord')`", build=_timm("coord")),
    "SE x2": Arm(what="twice `create_attn('se')`, so that a half-open gate is 1", build=DoubledSE),
    "ReZero coord": Arm(
        what="`x + a * (coord(x) - x)` around timm's coord, learnable a from 0",
        build=lambda channels: ReZero(create_attn("coord", channels)),
    ),
    "control": Arm(
        what="`x + W2 silu(W1 x)`, W2 from 0, parameters matched to step 3", build=Control
    ),
    "step 1": Arm(what="the notebook's baseline", build=_ours(BlockConfig.step1())),
    "step 2": Arm(what="the notebook's stabilised block, monitor off", build=_ours(_STEP2)),
    "step 3": Arm(what="ours, with its rescue", build=_ours(_STEP3)),
    "guarded cbam": Arm(
        what="`Guard(create_attn('cbam'), r_min=0.9)`, not calibrated", build=_guarded("cbam")
    ),
    "guarded coord": Arm(
        what="`Guard(create_attn('coord'), r_min=0.9)`, not calibrated", build=_guarded("coord")
    ),
    "x 0.9": Arm(
        what="`0.9 * x`, as much as a guard keeps, and no attention",
        build=lambda _channels: Damped(),
    ),
    "step 2, monitored": Arm(
        what="step 2 with the notebook's monitor and rescue at their defaults (r_min 0.45)",
        build=_ours(_STEP2.replace(monitor=True)),
    ),
    "step 3, watched": Arm(what="step 3, measured, its rescue off", build=_ours(_WATCH)),
    "closed step 2, monitored": Arm(
        what="as step 2, monitored; the biases of fc2 and both heads start at -3",
        build=_ours(_STEP2.replace(monitor=True), closed=True),
    ),
    "closed step 3, watched": Arm(
        what="as step 3, watched; the same biases at -3", build=_ours(_WATCH, closed=True)
    ),
    "closed step 3, rescued": Arm(
        what="as step 3 with r_min 0.8; the same biases at -3",
        build=_ours(_STEP3.replace(r_min=0.8), closed=True),
    ),
}
