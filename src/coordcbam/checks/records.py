"""What a run's records tell, also of a run that is still going or was killed."""

import math
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from coordcbam.checks.findings import Finding
from coordcbam.records import STRONGLY, SUPPRESSING, Run
from coordcbam.records.reading import rescue_active
from coordcbam.records.schema import EVENTS, METRICS, MONITOR, RUN

PATIENCE = 600.0  # seconds without a line, after which nobody writes any more;
READINGS = 30  # or so many times what a reading has taken, if that is longer


def record_findings(run: Run) -> list[Finding]:
    """Everything odd in the run's records."""
    found = [
        Finding(
            what="unreadable records",
            where=run.folder.name,
            measured=line,
            todo="the rest was read",
            note="torn" in line,  # a run that goes on is writing it
        )
        for line in run.problems
    ]
    if run.info.status != "finished":
        found.append(_unfinished(run))
    for name, then in run.info.versions.items():
        now = _installed(name)
        if now is not None and now != then:
            todo = f"pip install {name}=={then} to repeat the run"
            found.append(
                Finding(
                    what="another version", where=name, measured=f"{then}, here {now}", todo=todo
                )
            )
    for block in run.blocks():
        found += _block(run, block)
    return found


def _unfinished(run: Run) -> Finding:
    """A run that failed, was killed without a word, or still goes: then it is a note."""
    reached = run.monitor.steps()
    upto = "no reading" if reached is None else f"up to step {reached[2]:,}"
    if run.info.status == "running":
        files = [run.folder / name for name in (RUN, MONITOR, METRICS, EVENTS)]
        silent = time.time() - max(file.stat().st_mtime for file in files if file.exists())
        between = run.monitor[-1].seconds / len(run.monitor) if run.monitor else 0.0
        killed = silent > max(PATIENCE, READINGS * between)
        upto += f", last written {silent / 60:.0f} min ago"
    else:
        killed = True
    return Finding(
        what="the run was killed" if upto.endswith("ago") and killed else _marked(run),
        where=RUN,
        measured=upto,
        todo="resume=True goes on from weights/last.pt" if killed else "wait, or look again later",
        note=not killed,
    )


def _marked(run: Run) -> str:
    return f"the run is marked {run.info.status}"


def _installed(name: str) -> str | None:
    try:
        found = version(name)
    except PackageNotFoundError:
        return None
    if name == "torch":  # whose own name for itself has the build in it
        import torch

        return str(torch.__version__)
    return found


def _block(run: Run, block: str) -> Iterator[Finding]:
    last = run.monitor.last(block)
    ran = _finite(run, block, "alpha")
    absent = [n for n in ("alpha", "alpha_eff", "r_out_pre") if last and n not in last.values]
    if absent:
        names = ", ".join(absent)
        yield Finding(what="missing columns", where=block, measured=names, todo="another writer?")
    elif not ran:
        todo = "the block never ran: check the weights, insert it again"
        yield Finding(what="no reading", where=block, measured="no row with numbers", todo=todo)
    if absent or not ran:
        return
    skipped = [e for e in run.events if e.block == block and e.kind in ("skipped", "non_finite")]
    if skipped:
        steps = ", ".join(str(event.step) for event in skipped[:4])
        todo = "look at the data, lower lr"
        yield Finding(
            what="not finite or empty batches",
            where=block,
            measured=f"{len(skipped)} events, at steps {steps}",
            todo=todo,
        )
    yield from _suppressing(run, block)
    alpha = ran[-1][0]
    effective = [(alpha, 0), *_finite(run, block, "alpha_eff")][-1][0]
    if rescue_active(alpha, effective):
        yield Finding(
            what="the rescue never left",
            where=block,
            measured=f"alpha_eff {effective:.3f} < alpha {alpha:.3f} at the end",
            todo="the block still suppresses: lower its betas or train longer",
        )


def _suppressing(run: Run, block: str) -> Iterator[Finding]:
    """A block that keeps too little at the end; one that did so earlier is a note."""
    name = run.monitor.kept(block)
    known = _finite(run, block, name)
    if not known or min(known)[0] >= SUPPRESSING:
        return
    recovered = known[-1][0] >= SUPPRESSING
    kept, step = min(known) if recovered else known[-1]
    word = "suppressing strongly" if kept < STRONGLY else "suppressing"
    yield Finding(
        what=f"was {word}" if recovered else word,
        where=block,
        measured=f"{name} {kept:.3f} at step {step:,}, {known[-1][0]:.3f} at the end",
        todo="lower beta_ca and coord_beta, or take BlockConfig.step3()",
        note=recovered,
    )


def _finite(run: Run, block: str, field: str) -> list[tuple[float, int]]:
    """The finite numbers of a field, each with its step, by rising step."""
    return [(v, s) for s, v in zip(*run.series(block, field), strict=True) if math.isfinite(v)]
