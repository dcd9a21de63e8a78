"""Running pytest in forks of one warm process: a child imports only the copy that it tests.

The parent has torch and pytest imported and has run no operation of torch's, so that no thread pool
exists that a fork would lose.
"""

import contextlib
import gc
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIMIT = 240.0  # seconds; a child that takes longer is stopped and reported
WRONG_COPY = 70
TIMED_OUT = 71


class Job(NamedTuple):
    """One run of pytest: which copy of the package, which tests, where its output goes."""

    name: str
    source: Path
    tests: tuple[str, ...]
    log: Path


class Ended(NamedTuple):
    """How a job ended."""

    job: Job
    status: int  # pytest's exit status, or one of ours
    seconds: float

    @property
    def noticed_by(self) -> str:
        """The first test that failed."""
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", self.output, re.MULTILINE)
        return found.group(1) if found else ""

    @property
    def output(self) -> str:
        """What pytest printed."""
        return self.job.log.read_text(encoding="utf-8", errors="replace")


def warm_up() -> None:
    """Import what every child needs and no child may change."""
    import hypothesis.strategies
    import pytest
    import timm.layers  # noqa: F401
    import torch

    del hypothesis, pytest, torch
    gc.collect()
    gc.freeze()  # pytest collects garbage often: what is here already need not be looked through


def run_all(jobs: list[Job], at_once: int) -> Iterator[Ended | None]:
    """Run every job, ``at_once`` at a time; None now and then, while nothing has ended."""
    waiting: list[Job] = list(reversed(jobs))
    running: dict[int, tuple[Job, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop()
                running[_forked(job)] = (job, time.monotonic())
            for pid, (job, start) in list(running.items()):
                seconds = time.monotonic() - start
                status = _status(pid, stop=seconds > LIMIT)
                if status is not None:
                    del running[pid]
                    yield Ended(job, status, seconds)
            time.sleep(0.05)
            yield None
    finally:  # interrupted: leave nothing running
        for pid in running:
            _status(pid, stop=True)


def _status(pid: int, *, stop: bool) -> int | None:
    """A child's exit status, or None while it runs; one to ``stop`` is killed with its children."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        return os.waitstatus_to_exitcode(status)
    if not stop:
        return None
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return TIMED_OUT


def _forked(job: Job) -> int:
    """Start the job in a child that leads a process group of its own."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # whoever is first, the child or we
            os.setpgid(pid, pid)
        return pid
    status = 3  # pytest's "internal error", unless it says otherwise
    try:
        os.setpgid(0, 0)
        output = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = _tested(job)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _tested(job: Job) -> int:
    """Run pytest on the copy; its exit status, unless another coordcbam was tested."""
    import pytest

    sys.path.insert(0, str(job.source))
    os.environ["PYTHONPATH"] = str(job.source)  # for the interpreters that tests start
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # quicker, and in the tests' own order
    words = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain"]
    words.append(f"--basetemp={job.log.with_suffix('.tmp')}")
    status = int(pytest.main([*words, *job.tests]))
    tested = getattr(sys.modules.get("coordcbam"), "__file__", None)
    print("coordcbam tested:", tested)
    return status if tested and Path(tested).is_relative_to(job.source) else WRONG_COPY
