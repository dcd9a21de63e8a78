"""What a kernel computes and what it may ask of the layer, as types."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from coordcbam.kernels.passes import Factors, Shape
from coordcbam.kernels.side import Maps, SideWeights


class Profile(NamedTuple):
    """What rows and columns say about a map: means and maxima along each."""

    row_mean: Tensor  # (B, C, H, 1)
    row_max: Tensor  # (B, C, H, 1)
    col_mean: Tensor  # (B, C, 1, W)
    col_max: Tensor  # (B, C, 1, W)


class Gain(NamedTuple):
    """The gates as factors: softened, mixed with their strengths, ready to multiply."""

    scaled: Tensor  # (B, C, H, W): x times its channel scale
    rows: Tensor  # (B, C, H, 1)
    cols: Tensor  # (B, C, 1, W)
    spatial: Tensor | None  # (B, C, H, W)
    beta: float | None  # strength of rows * cols
    clamp: tuple[float, float] | None


class ChannelNet(Protocol):
    """What the oracle asks of the channel layer."""

    def gate(self, mean: Tensor, peak: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Channel gate, router weights and temperature from (B, C, 1, 1) statistics."""

    def scale(self, gate: Tensor) -> Tensor:
        """The factor the gate stands for."""


class CoordNet(Protocol):
    """What the oracle asks of the coordinate layer."""

    def masks(self, profile: Profile) -> tuple[Tensor, Tensor]:
        """Row and column masks from the profile."""

    def gain(self, scaled: Tensor, rows: Tensor, cols: Tensor) -> Gain:
        """The factors the masks stand for, with the spatial gate of ``scaled`` if there is one."""


class Settled(NamedTuple):
    """The weights as they are now, without gradients, and what a kernel has made of them."""

    weights: SideWeights
    layouts: dict[str, object]


class SideNet(Protocol):
    """The layer's small nets: as modules for the oracle, as weights for the others."""

    @property
    def channel(self) -> ChannelNet:
        """The channel layer."""

    @property
    def coord(self) -> CoordNet:
        """The coordinate layer."""

    @property
    def unit(self) -> float:
        """Divides the attended signal."""

    @property
    def shape(self) -> Shape:
        """How the factors make the gain."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every parameter and buffer that the weights are made of, in a fixed order."""

    @property
    def trains_norm(self) -> bool:
        """Whether a run of the nets changes their state, so that there may be only one."""

    @property
    def signed(self) -> bool:
        """Whether a channel's factor may be negative."""

    @property
    def gates_places(self) -> bool:
        """Whether there is a spatial gate."""

    @property
    def opaque(self) -> str | None:
        """Why the nets must be run as modules; None where their weights say everything."""

    def weights(self, tensors: Sequence[Tensor], positions: int) -> SideWeights:
        """The weights, of these tensors, as suits so many positions of rows and columns."""

    def gradients(self, tensors: Sequence[Tensor], by: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Gradients of the tensors from those of the settled weights made of them, by leaf."""

    def settled(self) -> Settled:
        """The weights for many forwards, made once until one of the tensors changes."""

    def temperature(self) -> Tensor:
        """The channel gate's temperature, 0-dim."""

    def spatial(self, x: Tensor, channel: Tensor) -> Tensor:
        """The spatial factor of ``x * channel``, (B, C, H, W); channel is (B, C)."""


class Signal(Protocol):
    """A map and what a block makes of it, ready to be mixed with it: what a kernel gives."""

    x: Tensor  # (B, C, H, W)
    eager: bool  # nothing is recorded or transformed: a number may be read

    def mixed(self, alpha: Tensor | None) -> Tensor:
        """``x + alpha * (y - x)``, alpha 0-dim; None: y itself."""

    def measured(self, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same bits, and the sums of x and y, (5, B): see :mod:`.energies`."""

    def sums(self, *, exact: bool) -> Tensor:
        """The sums alone; exactly, where a deviation must survive a large mean."""


class Attended(Signal, Protocol):
    """A signal that a block of ours attends to."""

    def looked(self) -> tuple[Maps, Factors]:
        """The maps and the factors; with their gradients once the signal has been mixed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """One way to do the arithmetic; every kernel gives the same numbers up to rounding.

    ``missing()``: why this machine cannot run it; None where it can.

    ``refuses(x, side)``: why it cannot take this map or these nets; None where it can.

    ``attend(x, side)``: the signal, nothing of it computed before it is asked for.
    """

    name: str
    missing: Callable[[], str | None]
    refuses: Callable[[Tensor, SideNet], str | None]
    attend: Callable[[Tensor, SideNet], Attended]
