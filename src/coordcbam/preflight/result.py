"""What a preflight found, as frozen dataclasses: for JSON, for a terminal, in a sentence."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from coordcbam._support.permanent import permanent
from coordcbam.records.schema import plain

FORMAT = 1
# Of every number: what it is and in what.
UNITS = {
    "std_ratio": "mean over samples of std(out), over that of std(x)",
    "rms_ratio": "mean over samples of |out| / |x|",
    "kept": "mean over samples of <x, out> / <x, x>",
    "gain_min, gain_max": "ends of out / x of any element: certified for all inputs and weights, "
    "or of these images",
    "gradient_gain": "|dL/dx| / |dL/dout| at the block, L a fixed random projection of the outputs",
    "gradient_input": "|dL/dinput| with the block / without",
    "gradient_share": "|dL/dx| |x| of a place / the sum over the places, without blocks",
    "drift": "|outputs - outputs without| / |outputs without|, mean over output tensors",
    "score": "of the host, higher is better, without training",
    "shock": "score - score without",
    "parameters": "added",
    "flops": "added to one forward of one sample, 2 a multiplication and addition in matrix "
    "products and convolutions",
    "elementwise": "elements that all other operations of that forward touch, added; in the "
    "notebook's arithmetic, of which the fast kernels do less",
    "latency_ms": "added to one forward of one sample: the median over rounds, and the 20th "
    "and 80th percentile; on a CPU in one thread",
    "latency_ratio": "with / without, likewise",
    "memory_bytes": "kept more for the backward of one sample",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that was measured several times: over seeds, the mean and both ends."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Of one or more values.

        >>> Figure.of([1.0, 2.0, 6.0])
        Figure(mean=3.0, low=1.0, high=6.0)
        """
        return cls(mean=sum(values) / len(values), low=min(values), high=max(values))

    def minus(self, other: float) -> "Figure":
        """Each number without ``other``."""
        return Figure(mean=self.mean - other, low=self.low - other, high=self.high - other)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtPlace:
    """What a block does at one place while the others have one, too."""

    path: str
    std_ratio: Figure
    rms_ratio: Figure
    kept: Figure
    gradient_gain: Figure | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockRow:
    """A block at all places."""

    block: str
    places: tuple[AtPlace, ...]
    gain_min: float
    gain_max: float
    certified: bool
    harms: bool
    drift: Figure
    score: Figure | None
    shock: Figure | None
    gradient_input: Figure | None
    parameters: int
    flops: int
    elementwise: int
    latency_ms: Figure
    latency_ratio: Figure
    memory_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AloneRow:
    """A block at one place alone, of the first seed."""

    block: str
    path: str
    drift: float
    score: float | None
    shock: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaceRow:
    """A place, ranked: 1 is where blocks harm most; means are over the blocks that were tried."""

    rank: int
    path: str
    layer: str
    channels: int
    shock: float | None
    drift: float
    gradient_share: float | None
    parameters: float
    flops: float


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class Preflight:
    """What blocks would do to a model before any training; ``print`` shows it as tables."""

    about: Mapping[str, Any]  # the model, the data, the score, places, seeds, versions, machine
    without: Mapping[str, Any]  # the model as it is
    rows: tuple[BlockRow, ...]
    alone: tuple[AloneRow, ...]
    ranking: tuple[PlaceRow, ...]
    verdict: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON, with what each number is."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        rows = ("rows", "alone", "ranking")
        fields |= {name: [dataclasses.asdict(row) for row in fields[name]] for name in rows}
        found: dict[str, Any] = plain({"format": FORMAT, **fields, "units": UNITS})
        return found

    def __str__(self) -> str:
        """The tables and the verdict, as a terminal of 100 columns shows them."""
        from coordcbam.preflight.table import text_of

        return text_of(self)
