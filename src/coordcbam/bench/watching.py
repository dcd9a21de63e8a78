"""What watching costs: a training step with the monitor on over one with it off."""

import statistics
from collections.abc import Sequence

from coordcbam.bench.blocks import CPU, step_of, without_gradients
from coordcbam.bench.cases import Case
from coordcbam.bench.peers import Contender, kernel_kept
from coordcbam.bench.rows import Row
from coordcbam.bench.timing import Call, Length, Spread, clock_for, interleaved, spread_of
from coordcbam.block import CoordCBAM
from coordcbam.insert import commit_

EVERY = 10  # a monitor reads every tenth step by default, and measures less in between
OFF, BETWEEN, READING = "off", "between", "reading"


def monitor(case: Case, among: Sequence[Contender], length: Length) -> list[Row]:
    """Of each of our blocks: the mean step, and the step that is read."""
    rows = []
    for contender in among:
        if contender.config is None:
            continue
        block = contender.made(case, CPU).train()
        assert isinstance(block, CoordCBAM)
        with kernel_kept():
            times = interleaved(_calls(contender, block, case), length, clock_for(CPU))
        kernel = contender.ran(block, case.maps(CPU))
        rows += rows_of(case, contender.name, kernel, times)
    return rows


def _calls(contender: Contender, block: CoordCBAM, case: Case) -> dict[str, Call]:
    x, grad = case.maps(CPU).requires_grad_(), case.maps(CPU, seed=1)
    step, forget = step_of(block, x, grad), without_gradients(block, x)

    def prepare(on: str) -> None:
        forget()
        contender.choose()
        block.monitor, block.detailed = on != OFF, on == READING

    def watched() -> None:
        step()
        commit_(block)

    return {
        OFF: Call(step, lambda: prepare(OFF)),
        BETWEEN: Call(watched, lambda: prepare(BETWEEN)),
        READING: Call(watched, lambda: prepare(READING)),
    }


def rows_of(
    case: Case, contender: str, kernel: str | None, times: dict[str, list[float]]
) -> list[Row]:
    """Times of each way, and what watching costs on average and where it is read."""
    reading, between = (ratio(times[name], times[OFF]) for name in (READING, BETWEEN))
    spreads = {name: spread_of([1e6 * t for t in each]) for name, each in times.items()}
    found: dict[str, tuple[float | None, Spread | None]] = {
        "monitor off": (None, spreads[OFF]),
        "monitor reading": (reading, spreads[READING]),
        "monitor between": (between, spreads[BETWEEN]),
        "monitor": ((reading + (EVERY - 1) * between) / EVERY, None),
    }
    return [
        Row(
            mode=mode,
            shape=case.shape,
            layout=case.layout,
            contender=contender,
            kernel=kernel,
            times=spread,
            value=value,
            unit="" if value is None else "with / without",
        )
        for mode, (value, spread) in found.items()
    ]


def ratio(after: Sequence[float], before: Sequence[float]) -> float:
    """The median over rounds of one time over another.

    >>> ratio([2.0, 9.0, 3.0], [1.0, 3.0, 2.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(after, before, strict=True))
