"""The silent failures of one block: in its state, in its gates, in its kernel."""

from collections.abc import Iterator

import torch
from torch import Tensor

from coordcbam.block import CoordCBAM, GuardedResidual, certify
from coordcbam.checks import diagnosis
from coordcbam.checks.findings import Finding
from coordcbam.kernels import AUTO, KERNELS, chosen
from coordcbam.records.reading import rescue_active

CLOSED, OPEN, STILL = 0.02, 0.98, 1e-4
SLIGHT, YOUNG = 1e-3, 1000  # of the signal; optimizer steps in which no more is expected
AT_ITS_END = 1e-3  # of a temperature, relative
DEVICE, DTYPE = torch.device("cpu"), torch.float32


def state_findings(where: str, block: GuardedResidual) -> Iterator[Finding]:
    """What the block's own state tells without a forward."""
    if not block.monitor:
        acts = block.rescue is not None and block.mixes
        yield Finding(
            what="monitor off",
            where=where,
            measured="and the rescue with it" if acts else "nothing is measured",
            todo="set block.monitor = True before training",
            note=not acts,
        )
    yield from _rescue(where, block)
    if block.targets and int(block.skipped):
        yield Finding(
            what="skipped steps",
            where=where,
            measured=f"{int(block.skipped)} of {int(block.skipped + block.updates)}",
            todo="batches were not finite or had no signal: look at the data, lower lr",
        )


def _rescue(where: str, block: GuardedResidual) -> Iterator[Finding]:
    """A rescue that acts now, or that never can."""
    alpha, left = float(block.alpha(block.stats)), float(block.alpha_eff())
    rescue = block.rescue
    if rescue_active(alpha, left):
        yield _active(where, f"alpha_eff {left:.3f} < alpha {alpha:.3f}")
    elif rescue is not None and rescue.r_min is not None and block.mixes and not block.targets:
        r_ema = float(block.r_ema)  # by the notebook's rules it acts in training alone
        if r_ema < rescue.r_min:
            yield _active(where, f"r_ema {r_ema:.3f} < r_min {rescue.r_min:.3f}")
    if isinstance(block, CoordCBAM):
        sure = certify(block.config)
        if sure.r_min is not None and not sure.rescue_can_fire:
            yield Finding(
                what="the rescue cannot fire",
                where=where,
                measured=f"gain >= {sure.gain_min:.3f} > r_min {sure.r_min:.3f}",
                todo="raise r_min, or take BlockConfig.step3()",
                note=not block.targets,  # the notebook's own presets are so
            )


def _active(where: str, measured: str) -> Finding:
    return Finding(
        what="the rescue is active",
        where=where,
        measured=measured,
        todo="the block suppresses: see its numbers in the run's report",
    )


@torch.no_grad()
def map_findings(where: str, block: CoordCBAM, x: Tensor) -> Iterator[Finding]:
    """Gates that do nothing on these inputs: closed, open, or the same for all of them."""
    trace = block.trace(x)
    gate = trace.channel.gate
    low, high, spread = float(gate.min()), float(gate.max()), float(gate.std(dim=0).max())
    last = [block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head]
    if not any(bool(tensor.any()) for layer in last for tensor in layer.parameters()):
        yield Finding(
            what="still the exact identity: not trained",
            where=where,
            measured="last layers at 0",
            todo="train it",
            note=True,
        )
    elif high < CLOSED or low > OPEN:
        yield Finding(
            what=f"the channel gate is {'closed' if high < CLOSED else 'open'} everywhere",
            where=where,
            measured=f"gate in [{low:.3f}, {high:.3f}]",
            todo="it is saturated and learns no more: lower lr, train again",
        )
    elif spread < STILL and _is_young(block) and _change(trace.out, x) < SLIGHT:
        yield Finding(
            what="still nearly the identity",
            where=where,
            measured=f"{int(block.updates)} steps, {_change(trace.out, x):.0e} of the signal moved",
            todo="train on",
            note=True,
        )
    elif spread < STILL:
        yield Finding(
            what="the channel gate is constant",
            where=where,
            measured=f"spread over inputs {spread:.1e}",
            todo="the block is a fixed scale: compare with bypass(model)",
        )
    config, t = block.config.channel, float(trace.channel.temperature)
    ends = [end for end in (config.t_min, config.t_max) if end is not None]
    if config.learnable_temperature and any(abs(t - end) < AT_ITS_END * end for end in ends):
        yield Finding(
            what="the temperature is at its end",
            where=where,
            measured=f"T {t:.3f} of [{config.t_min}, {config.t_max}]",
            todo="it learns no more there: widen ca_t_min, ca_t_max",
        )


def _is_young(block: CoordCBAM) -> bool:
    """Whether few steps were counted, but some: a block that is not watched counts none."""
    return block.targets and 0 < int(block.updates) < YOUNG


def _change(out: Tensor, x: Tensor) -> float:
    return float((out - x).norm() / x.norm().clamp_min(1e-12))


def kernel_findings(where: str, block: CoordCBAM) -> Iterator[Finding]:
    """Why the block does not run in the machine's own kernel; a machine without one is a note."""
    runs = diagnosis.found((where, block), DEVICE, DTYPE)
    if runs.reason == diagnosis.FASTEST:
        return
    able = chosen() == AUTO and KERNELS["cpu"].missing() is None
    yield Finding(
        what="no kernel takes it" if runs.kernel is None else f"the kernel is {runs.kernel!r}",
        where=where,
        measured=runs.reason,
        todo="the result is the same, only slower: see coordcbam doctor",
        note=not able and runs.kernel is not None,
    )
