"""What the page says in words: up to three sentences, and a line for everything missing."""

import math
from collections.abc import Mapping
from typing import Any

from coordcbam.records import SUPPRESSING, Run
from coordcbam.records.reading import rescue_active

_FEW = 3


def sentences(run: Run) -> list[str]:
    """The run in up to three plain sentences: the blocks, the alarms, the final mAP."""
    blocks = run.blocks()
    steps = {row.step for row in run.monitor}
    where = f" ({_listed(blocks)})" if 0 < len(blocks) <= _FEW else ""
    who = f"{_count(len(blocks), 'block')}{where} {'was' if len(blocks) == 1 else 'were'}"
    when = f" at {_count(len(steps), 'step')}{_over(steps)}"
    said = [f"{who} read{when}." if steps else "No block has been read.", *_alarms(run)]
    score = _score(run)
    caution = "the monitor is an alarm, not a score: a higher ratio does not mean a better detector"
    final = f"The last {score[0]} is {score[1]:.3f}; " if score else ""
    return [*said, f"{final}{caution}." if final else f"{caution[0].upper()}{caution[1:]}."]


def guarantees(certificate: Mapping[str, Any]) -> str:
    """What the blocks' certificate says, in a line; ``""`` where there is none.

    >>> guarantees({"gain_min": 0.567, "gain_max": 1.87, "r_min": 0.783, "rescue_can_fire": True})
    'every gain lies in [0.567, 1.870]; the rescue acts under 0.783'
    >>> guarantees({"gain_min": 0.567, "gain_max": 1.0, "r_min": 0.45, "rescue_can_fire": False})
    'every gain lies in [0.567, 1.000]; the rescue cannot act on suppression (threshold 0.450)'
    """
    low, high, r_min = (certificate.get(name) for name in ("gain_min", "gain_max", "r_min"))
    said = []
    if isinstance(low, float) and isinstance(high, float):
        said.append(f"every gain lies in [{low:.3f}, {high:.3f}]")
    if isinstance(r_min, float):
        can = certificate.get("rescue_can_fire", True)
        never = f"the rescue cannot act on suppression (threshold {r_min:.3f})"
        said.append(f"the rescue acts under {r_min:.3f}" if can else never)
    return "; ".join(said)


def missing(run: Run) -> list[str]:
    """One line for everything that a whole run has and this one has not."""
    lines = []
    if run.info.status == "running":
        reached = max((row.step for row in run.monitor), default=None)
        until = "before its first reading" if reached is None else f"up to step {reached:,}"
        lines.append(f"The run is still going, or it was killed: this page shows it {until}.")
    if run.info.status == "failed":
        lines.append("The run failed; its last note may say why.")
    if not run.info.places:
        lines.append("No inserted block is recorded.")
    if not run.monitor:
        lines.append("No reading of a block is recorded: there are no curves.")
    else:
        unread = [block for block in run.blocks() if run.last(block) is None]
        if unread:
            lines.append(f"Never read: {_listed(unread)}.")
    if not run.metrics:
        lines.append("No metrics per epoch are recorded: there are no mAP and loss curves.")
    return lines


def _alarms(run: Run) -> list[str]:
    if not run.monitor:
        return []
    dips = _dips(run)
    rescues = _rescues(run)
    if not dips and not rescues:
        return [f"No block fell below {SUPPRESSING} and no rescue was active."]
    return ["; ".join((_dip_words(dips), _rescue_words(rescues))) + "."]


def _dips(run: Run) -> list[tuple[float, int, str]]:
    """Lowest ratio, its step and the block, for every block that was ever suppressing."""
    found = []
    for block in run.blocks():
        pairs = zip(*run.series(block, run.kept(block)), strict=True)
        low = [(value, step, block) for step, value in pairs if value < SUPPRESSING]
        if low:
            found.append(min(low))
    return sorted(found)


def _rescues(run: Run) -> list[tuple[int, int, str]]:
    """First step, number of readings and the block, for every block that was ever rescued."""
    found = []
    for block in run.blocks():
        alpha = dict(zip(*run.series(block, "alpha"), strict=True))
        effective = zip(*run.series(block, "alpha_eff"), strict=True)
        steps = [s for s, value in effective if rescue_active(alpha.get(s, math.nan), value)]
        if steps:
            found.append((steps[0], len(steps), block))
    return sorted(found)


def _dip_words(dips: list[tuple[float, int, str]]) -> str:
    if not dips:
        return f"No block fell below {SUPPRESSING}"
    value, step, block = dips[0]
    if len(dips) == 1:
        return f"{block} fell below {SUPPRESSING} (lowest {value:.3f}, at step {step:,})"
    return (
        f"{len(dips)} blocks fell below {SUPPRESSING} "
        f"(lowest {value:.3f}: {block}, at step {step:,})"
    )


def _rescue_words(rescues: list[tuple[int, int, str]]) -> str:
    if not rescues:
        return "no rescue was active"
    step, count, block = rescues[0]
    if len(rescues) == 1:
        times = _count(count, "reading")
        return f"the rescue of {block} was active at {times}, first at step {step:,}"
    return f"the rescue was active in {len(rescues)} blocks, first in {block} at step {step:,}"


def _score(run: Run) -> tuple[str, float] | None:
    """The strictest mean average precision on record: of the result, else of the last epoch."""
    sources = [run.info.result, *reversed(run.metrics)]
    for wanted in ("map50-95", "map"):
        for source in sources:
            for name, value in source.items():
                if wanted in name.lower() and math.isfinite(value):
                    return name.removeprefix("metrics/").removesuffix("(B)"), value
    return None


def _over(steps: set[int]) -> str:
    return f", from {min(steps):,} to {max(steps):,}" if len(steps) > 1 else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _listed(names: list[str]) -> str:
    head = names[:-1]
    return f"{', '.join(head)} and {names[-1]}" if head else "".join(names)
