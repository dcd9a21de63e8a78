"""What the page says in words: up to three sentences, and a line for everything missing."""

import math
from collections.abc import Mapping
from typing import Any

from coordcbam.records import SUPPRESSING, MonitorRow, Run
from coordcbam.report.charts import is_map, short
from coordcbam.report.words import Words

_FEW = 3


def sentences(run: Run, words: Words) -> list[str]:
    """The run in up to three plain sentences: the blocks, the alarms, the final mAP."""
    said = [_read(run, words), *_alarms(run, words)]
    final = score(run.info.result)
    found = final or last_score(run)
    if found is None:
        return [
            *said,
            words(
                "The monitor is an alarm, not a score: a higher ratio does not mean a better "
                "detector."
            ),
        ]
    name, value = found
    return [
        *said,
        words(
            "The final {name} is {value}; the monitor is an alarm, not a score: a higher ratio "
            "does not mean a better detector."
            if final
            else "The last {name} is {value}; the monitor is an alarm, not a score: a higher ratio "
            "does not mean a better detector.",
            name=name,
            value=f"{value:.3f}",
        ),
    ]


def _read(run: Run, words: Words) -> str:
    blocks, steps = run.blocks(), run.monitor.steps()
    if steps is None:
        return words("No block has been read.")
    who = words.count(len(blocks), "{n} block", "{n} blocks")
    where = f" ({listed(blocks, words)})" if 0 < len(blocks) <= _FEW else ""
    count, first, last = steps
    values = {"n": f"{count:,}", "first": f"{first:,}", "last": f"{last:,}"}
    if count == 1:
        return words(
            "{who} was read at step {first}."
            if len(blocks) == 1
            else "{who} were read at step {first}.",
            who=who + where,
            **values,
        )
    return words(
        "{who} was read at {n} steps, from {first} to {last}."
        if len(blocks) == 1
        else "{who} were read at {n} steps, from {first} to {last}.",
        who=who + where,
        **values,
    )


def guarantees(certificate: Mapping[str, Any], words: Words) -> str:
    """What the blocks' certificate says, in a line; ``""`` where there is none.

    >>> guarantees({"gain_min": 0.567, "gain_max": 1.87, "r_min": 0.783}, Words())
    'every gain lies in [0.567, 1.870]; the rescue acts under 0.783'
    >>> guarantees({"gain_max": 1.0, "r_min": 0.45, "rescue_can_fire": False}, Words())
    'the rescue cannot act on suppression (threshold 0.450)'
    """
    low, high, r_min = (certificate.get(name) for name in ("gain_min", "gain_max", "r_min"))
    said = []
    if isinstance(low, float) and isinstance(high, float):
        low_high = {"low": f"{low:.3f}", "high": f"{high:.3f}"}
        said.append(words("every gain lies in [{low}, {high}]", **low_high))
    if isinstance(r_min, float):
        can = certificate.get("rescue_can_fire", True)
        said.append(
            words(
                "the rescue acts under {r_min}"
                if can
                else "the rescue cannot act on suppression (threshold {r_min})",
                r_min=f"{r_min:.3f}",
            )
        )
    return "; ".join(said)


def missing(run: Run, words: Words) -> list[str]:
    """One line for everything that a whole run has and this one has not."""
    lines = []
    steps = run.monitor.steps()
    if run.info.status == "running":
        until = words("before its first reading")
        if steps is not None:
            until = words("up to step {step}", step=f"{steps[2]:,}")
        lines.append(
            words(
                "The run is still going, or it was killed: this page shows it {until}.",
                until=until,
            )
        )
    if run.info.status == "failed":
        lines.append(words("The run failed; its last note may say why."))
    if not run.info.places:
        lines.append(words("No inserted block is recorded."))
    if steps is None:
        lines.append(words("No reading of a block is recorded: there are no curves."))
    else:
        read = set(run.monitor.blocks())
        unread = [block for block in run.blocks() if block not in read]
        if unread:
            lines.append(words("Never read: {blocks}.", blocks=listed(unread, words)))
        placed = {place.path for place in run.info.places}
        other = [block for block in run.blocks() if placed and block not in placed]
        if other:
            lines.append(words("Read, but not inserted: {blocks}.", blocks=listed(other, words)))
    if not run.metrics:
        lines.append(words("No metrics per epoch are recorded: there are no mAP and loss curves."))
    return lines


def _alarms(run: Run, words: Words) -> list[str]:
    if not run.monitor:
        return []
    read = run.monitor.blocks()
    known = _known(run)
    if not known:
        return [
            words("No reading of a block is finite: nothing can be said of the signal it keeps.")
        ]
    dips = lowest_of(run)
    rescues = rescues_of(run)
    lost = [block for block in read if block not in known or not _ends_finite(run, block)]
    if lost:
        told = words("Not finite at the end: {blocks}", blocks=listed(lost, words))
        return [f"{told}; {_dip_words(dips, words)}; {_rescue_words(rescues, words)}."]
    if not dips and not rescues:
        return [words("No block fell below {limit} and no rescue was active.", limit=SUPPRESSING)]
    return [f"{_dip_words(dips, words)}; {_rescue_words(rescues, words)}."]


def has_finite(run: Run) -> bool:
    """Whether any block's reading of the signal it keeps is a number."""
    return bool(_known(run))


def _known(run: Run) -> list[str]:
    read = run.monitor.blocks()
    return [block for block in read if run.monitor.lowest(block, run.monitor.kept(block))]


def _ends_finite(run: Run, block: str) -> bool:
    last = run.monitor.last(block)
    return last is not None and math.isfinite(last.values.get(run.monitor.kept(block), math.nan))


def lowest_of(run: Run) -> list[tuple[float, MonitorRow]]:
    """What every block that was ever suppressing kept at its lowest, the lowest first."""
    found = []
    for block in run.blocks():
        name = run.monitor.kept(block)
        row = run.monitor.lowest(block, name)
        if row is not None and row.values[name] < SUPPRESSING:
            found.append((row.values[name], row))
    return sorted(found, key=lambda pair: (pair[0], pair[1].step))


def rescues_of(run: Run) -> list[tuple[MonitorRow, int]]:
    """The first reading and the number of readings of every rescue, the first first."""
    found = [run.monitor.rescued(block) for block in run.blocks()]
    return sorted((pair for pair in found if pair), key=lambda pair: pair[0].step)


def _dip_words(dips: list[tuple[float, MonitorRow]], words: Words) -> str:
    if not dips:
        return words("No block fell below {limit}", limit=SUPPRESSING)
    kept, row = dips[0]
    values = {"limit": SUPPRESSING, "kept": f"{kept:.3f}", "step": f"{row.step:,}"}
    return words(
        "{block} fell below {limit} (lowest {kept}, at step {step})"
        if len(dips) == 1
        else "{n} blocks fell below {limit} (lowest {kept}: {block}, at step {step})",
        n=len(dips),
        block=row.block,
        **values,
    )


def _rescue_words(rescues: list[tuple[MonitorRow, int]], words: Words) -> str:
    if not rescues:
        return words("no rescue was active")
    row, count = rescues[0]
    values = {"block": row.block, "step": f"{row.step:,}"}
    if len(rescues) == 1:
        times = words.count(count, "{n} reading", "{n} readings")
        return words(
            "the rescue of {block} was active at {times}, first at step {step}",
            times=times,
            **values,
        )
    return words(
        "the rescue was active in {n} blocks, first in {block} at step {step}",
        n=len(rescues),
        **values,
    )


def score(*sources: Mapping[str, float]) -> tuple[str, float] | None:
    """The strictest mean average precision in any of these, the first that has one.

    >>> score({"metrics/mAP50(B)": 0.5, "metrics/mAP50-95(B)": 0.25})
    ('mAP50-95', 0.25)
    """
    for wanted in ("map50-95", "map"):
        for source in sources:
            # What was trained on says least.
            for name in sorted(filter(is_map, source), key=lambda name: name.startswith("train")):
                if wanted in name.lower() and math.isfinite(source[name]):
                    return short(name), source[name]
    return None


def last_score(run: Run) -> tuple[str, float] | None:
    """That of the last epoch that has one; what a host makes of the best weights is another."""
    return score(*reversed(run.metrics))


def listed(names: list[str], words: Words) -> str:
    """Names in a row.

    >>> listed(["a", "b", "c"], Words())
    'a, b and c'
    """
    if len(names) == 1:
        return names[0]
    return words("{names} and {last}", names=", ".join(names[:-1]), last=names[-1])
