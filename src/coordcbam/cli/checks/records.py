"""What a run's records tell, also of a run that is still going or was killed."""

import math
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from coordcbam.cli.checks.findings import Finding
from coordcbam.records import STRONGLY, SUPPRESSING, Run
from coordcbam.records.reading import rescue_active


def record_findings(run: Run) -> list[Finding]:
    """Everything odd in the run's records."""
    found = [
        Finding(what="unreadable records", where=run.folder.name, measured=line, todo="see above")
        for line in run.problems
    ]
    if run.info.status != "finished":
        reached = max((row.step for row in run.monitor), default=None)
        found.append(
            Finding(
                what=f"the run is marked {run.info.status}",
                where="run.json",
                measured="no reading" if reached is None else f"up to step {reached:,}",
                todo="it still goes, or was killed: resume=True goes on",
                note=run.info.status == "running",
            )
        )
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
    rows = [row for row in run.monitor if row.block == block]
    ran = [row for row in rows if not math.isnan(row.values.get("alpha", math.nan))]
    absent = [n for n in ("alpha", "alpha_eff", "r_out_pre") if rows and n not in rows[-1].values]
    if absent:
        names = ", ".join(absent)
        yield Finding(what="missing columns", where=block, measured=names, todo="another writer?")
    elif not ran:
        todo = "the block never ran: check the weights, insert it again"
        yield Finding(
            what="no reading", where=block, measured=f"{len(rows)} rows, all NaN", todo=todo
        )
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
    steps_of, values = run.series(block, run.kept(block))
    low = min(
        ((v, s) for s, v in zip(steps_of, values, strict=True) if math.isfinite(v)), default=None
    )
    if low is not None and low[0] < SUPPRESSING:
        yield Finding(
            what="suppressing strongly" if low[0] < STRONGLY else "suppressing",
            where=block,
            measured=f"{run.kept(block)} {low[0]:.3f} at step {low[1]:,}",
            todo="lower beta_ca and coord_beta, or take BlockConfig.step3()",
        )
    last = ran[-1].values
    if rescue_active(last["alpha"], last["alpha_eff"]):
        yield Finding(
            what="the rescue never left",
            where=block,
            measured=f"alpha_eff {last['alpha_eff']:.3f} < alpha {last['alpha']:.3f} at the end",
            todo="the block still suppresses: lower its betas or train longer",
        )
