"""Run a job in a process of its own and kill -9 that process at a chosen instant.

What a process leaves on the disk changes by its system calls, and it makes them inside calls of
Python's. So an instant is a number of calls: it falls between any two of them, it is the same in
every run, and it can be aimed at a part of the job. The job stops there, says where it is, and
waits; the kill comes from outside.
"""

import contextlib
import multiprocessing
import signal
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# Imported once, by the process that all jobs are forked from: what a training imports on its way.
PRELOADED = [
    "pytest",
    "sklearn.datasets",
    "torch._dynamo",  # by the first step of any optimizer
    "torchvision",
    "thop",
    "requests",
    "coordcbam.report.page",
    "coordcbam.hosts.ultralytics",
]


@dataclass(frozen=True)
class Instant:
    """The ``call``-th call, from 1, inside the ``visit``-th passage, from 0, of a region."""

    region: str
    visit: int
    call: int


@dataclass(frozen=True)
class Killed:
    """Where the job was when it was killed."""

    inside: tuple[str, ...]  # the regions, outermost first
    at: str


@dataclass(frozen=True)
class Done:
    """A job that came to its end: what it returned, and how many calls each passage took."""

    value: Any
    calls: dict[str, list[int]]


class Clock:
    """Counts a job's calls; at the instant it tells the test, and never goes on."""

    def __init__(self, instant: Instant | None, pipe: Any) -> None:
        self.calls = defaultdict[str, list[int]](list)
        self._instant, self._pipe = instant, pipe
        self._now = 0
        self._stop: int | None = None
        self._inside: list[str] = []

    @contextlib.contextmanager
    def region(self, name: str) -> Iterator[None]:
        """A part of the job at which an instant can be aimed."""
        begin, aim = self._now, self._instant
        if aim is not None and (aim.region, aim.visit) == (name, len(self.calls[name])):
            self._stop = begin + aim.call
            self.count()
        self._inside.append(name)
        try:
            yield
        finally:
            self._inside.pop()
            self.calls[name].append(self._now - begin)

    def count(self) -> None:
        """Count the calls of this thread from here on."""
        sys.setprofile(self._tick)

    def _tick(self, frame: Any, event: str, _: Any) -> None:
        if event in ("call", "c_call"):
            self._now += 1
            if self._now == self._stop:
                sys.setprofile(None)
                at = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                self._pipe.send(Killed(tuple(self._inside), at))
                self._pipe.recv()  # for ever; an error if the test itself is gone


def run(
    job: Callable[..., Any], *arguments: Any, kill_at: Instant | None = None, count: bool = False
) -> Done | Killed:
    """``job(clock, *arguments)`` in a new process, to its end or to the instant.

    Raises:
        RuntimeError: the job failed, with its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(there, job, arguments, kill_at, count))
    process.start()
    there.close()
    said = here.recv()
    if isinstance(said, Killed):
        process.kill()  # which is os.kill(process.pid, SIGKILL)
    process.join()
    here.close()
    if isinstance(said, str):
        raise RuntimeError(said)
    assert process.exitcode == (-signal.SIGKILL if isinstance(said, Killed) else 0)
    return said


def _child(
    pipe: Any, job: Callable[..., Any], arguments: Any, kill_at: Instant | None, count: bool
) -> None:
    import torch

    torch.set_num_threads(1)
    clock = Clock(kill_at, pipe)
    if count:
        clock.count()
    try:
        value = job(clock, *arguments)
        said = Done(value, dict(clock.calls))
    except BaseException:
        said = traceback.format_exc()
    sys.setprofile(None)
    pipe.send(said)
