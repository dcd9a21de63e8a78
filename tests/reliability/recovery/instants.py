"""Which instants: drawn from a fixed seed, over the whole run, in its steps and in its saves."""

import random
from collections.abc import Mapping, Sequence

from recovery.killing import Instant


def draw(calls: Mapping[str, Sequence[int]], wanted: Mapping[str, int], seed: int) -> list[Instant]:
    """``wanted[region]`` instants in each region, given the calls of each of its passages.

    One in each of as many equal parts of the region, so that none of it is left out.
    """
    drawn = random.Random(seed)
    return [
        _at(region, calls[region], int((part + drawn.random()) * sum(calls[region]) / parts))
        for region, parts in wanted.items()
        for part in range(parts)
    ]


def _at(region: str, calls: Sequence[int], number: int) -> Instant:
    """The instant that is ``number`` calls into the region, its passages laid end to end."""
    for visit, length in enumerate(calls):
        if number < length:
            return Instant(region, visit, number + 1)
        number -= length
    raise ValueError(f"{region} has no call {number}")
