"""Times of calls that take turns, so that whatever the machine does, it does to all of them."""

import contextlib
import ctypes
import dataclasses
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_NEVER = 2_000_000_000


def _nothing() -> None:
    """What most calls need before them."""


class Call(NamedTuple):
    """What is timed, and what comes before it untimed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing


Clock = Callable[[Call], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """How long to measure: for ``seconds``, in at least ``least`` and at most ``most`` rounds."""

    seconds: float
    least: int = 10
    most: int = 200
    warm_up: int = 3


class Spread(NamedTuple):
    """The 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float


def interleaved(calls: Mapping[str, Call], length: Length, clock: Clock) -> dict[str, list[float]]:
    """Seconds of each call, round by round; index i of every list is of the same round.

    Each round has an order of its own: nobody always finds the cache as the same neighbour left it.
    """
    shuffle = random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with _without_collector():
        for _ in range(length.warm_up):
            for name in names:
                clock(calls[name])
        started = time.perf_counter()
        for done in range(length.most):
            if done >= length.least and time.perf_counter() - started > length.seconds:
                break
            shuffle(names)
            for name in names:
                times[name].append(clock(calls[name]))
    return times


def clock_for(device: torch.device) -> Clock:
    """Wall time on the CPU, the time between two events on a GPU; in seconds."""
    return _by_events if device.type == "cuda" else _by_wall


def _by_wall(call: Call) -> float:
    call.prepare()
    started = time.perf_counter()
    call.run()
    return time.perf_counter() - started


def _by_events(call: Call) -> float:
    event: Any = torch.cuda.Event
    started, ended = event(enable_timing=True), event(enable_timing=True)
    call.prepare()
    torch.cuda.synchronize()
    started.record()
    call.run()
    ended.record()
    torch.cuda.synchronize()
    return float(started.elapsed_time(ended)) / 1e3


def spread_of(times: Sequence[float]) -> Spread:
    """Percentiles, interpolated between the times there are.

    >>> spread_of([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    Spread(p20=2.0, p50=3.5, p80=5.0)
    """
    if len(times) == 1:
        return Spread(times[0], times[0], times[0])
    p20, _, _, p80 = statistics.quantiles(times, n=5, method="inclusive")
    return Spread(p20, statistics.median(times), p80)


def keep_memory() -> bool:
    """Ask glibc to keep freed memory; whether it does.

    It gives large blocks back and fetches them again, page by page, which costs more than what is
    measured here. Where there is no glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    taken = [mallopt(option, _NEVER) == 1 for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)]
    return all(taken)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """As many threads as ``count`` inside the ``with``."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
