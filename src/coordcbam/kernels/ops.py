"""What a kernel computes and what it may ask of the layer: the types of the three operations."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class Profile(NamedTuple):
    """What rows and columns say about a map: means and maxima along each."""

    row_mean: Tensor  # (B, C, H, 1)
    row_max: Tensor  # (B, C, H, 1)
    col_mean: Tensor  # (B, C, 1, W)
    col_max: Tensor  # (B, C, 1, W)


class Maps(NamedTuple):
    """The gates as a person reads them, each in [0, 1]."""

    channel: Tensor  # (B, C, 1, 1)
    fusion: Tensor | None  # (B, 2): weights of average and maximum; None when they are summed
    temperature: Tensor  # ()
    rows: Tensor  # (B, C, H, 1)
    cols: Tensor  # (B, C, 1, W)


class Gain(NamedTuple):
    """The gates as factors: softened, mixed with their strengths, ready to multiply."""

    scaled: Tensor  # (B, C, H, W): x times its channel scale
    rows: Tensor  # (B, C, H, 1)
    cols: Tensor  # (B, C, 1, W)
    spatial: Tensor | None  # (B, C, H, W)
    beta: float | None  # strength of rows * cols
    clamp: tuple[float, float] | None


class ChannelNet(Protocol):
    """What ``gates`` asks of the channel layer."""

    def gate(self, mean: Tensor, peak: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Channel gate, router weights and temperature from (B, C, 1, 1) statistics."""

    def scale(self, gate: Tensor) -> Tensor:
        """The factor the gate stands for."""


class CoordNet(Protocol):
    """What ``gates`` asks of the coordinate layer."""

    def masks(self, profile: Profile) -> tuple[Tensor, Tensor]:
        """Row and column masks from the profile."""

    def gain(self, scaled: Tensor, rows: Tensor, cols: Tensor) -> Gain:
        """The factors the masks stand for, with the spatial gate of ``scaled`` if there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """One way to do the arithmetic; every kernel gives the same numbers up to rounding."""

    name: str
    profile: Callable[[Tensor], Profile]
    gates: Callable[[Tensor, ChannelNet, CoordNet], tuple[Maps, Gain]]
    apply_gain: Callable[[Gain], Tensor]
