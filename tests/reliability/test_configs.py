"""Any valid config, drawn from the fields' own rules, trains and evaluates.

A field that accepts what the block cannot run would stop a user hours into a sweep.
"""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st

import coordcbam as cc
from _support.drawn import blocks_of_all_steps, config_of
from _support.shaken import shaken
from coordcbam.block import OptionValueError

SIDE = st.sampled_from([1, 2, 3, 5, 7])


class Tally:
    """What a run of configs came to."""

    def __init__(self):
        self.valid, self.discarded, self.steps = 0, 0, set()
        self.moved = {}  # parameter: the largest gradient that any config gave it

    def build(self, channels, parts):
        """The block, or nothing where options do not fit together."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", cc.UnreachableRescueWarning)
                block = cc.CoordCBAM(channels, config_of(parts))
        except OptionValueError:
            self.discarded += 1
            assume(False)
        self.valid += 1
        self.steps.add(block.config.step)
        return block


def run(block, x, tally):
    """A forward and a backward: all finite, every parameter with a gradient."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    out = block(x)
    assert out.shape == x.shape
    assert out.isfinite().all()
    (out * torch.linspace(-1.0, 2.0, out.numel()).view(out.shape)).sum().backward()
    for name, tensor in (("x", x), *block.named_parameters()):
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        largest = tensor.grad.abs().max().item()
        tally.moved[name] = max(largest, tally.moved.get(name, 0.0))
    return out


def check(block, x, tally):
    """Two training steps with a commit after each, then eval; the monitor's state stays sound."""
    block.train()
    for _ in range(2):
        run(block, x, tally)
        cc.commit_(block)
    run(block.eval(), x, tally)
    rescue = block.rescue
    if rescue is None:
        return
    assert block.r_ema.isfinite()
    if rescue.targets:
        assert block.updates.item() == (2 if block.monitor else 0)
        assert 0.0 <= block.alpha_eff() <= block.alpha(x)


def every_config(examples, chunk):
    tally = Tally()

    @seed(chunk)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        drawn=blocks_of_all_steps(),
        size=st.tuples(st.integers(1, 3), SIDE, SIDE),
        number=st.integers(0, 10**6),
        fresh=st.booleans(),
    )
    def holds(drawn, size, number, fresh):
        like, channels, parts = drawn
        torch.manual_seed(number)
        block = tally.build(channels, parts)
        assert like in (None, block.config.step)
        block.monitor = number % 4 != 0
        if not fresh:
            shaken(block)
        batch, *sides = size
        check(block, torch.randn(batch, channels, *sides), tally)

    holds()
    # What is drawn depends on what else the process has imported; this parameter is rare.
    learns = cc.BlockConfig.step3(learnable_temperature=True)
    check(shaken(cc.CoordCBAM(4, learns)), torch.randn(2, 4, 5, 3), tally)
    return tally


def report(tally, examples, figure, name):
    assert tally.valid >= examples
    assert tally.discarded <= 0.05 * (tally.valid + tally.discarded)
    assert tally.steps == {1, 2, 3, None}
    still = [name for name, largest in tally.moved.items() if not largest > 0.0]
    assert still == [], "no config gave these a gradient"
    measured = f"{tally.valid} valid, {tally.discarded} discarded, 0 failures"
    figure(name, measured, f">= {examples}, <= 5 %, 0")


def test_a_sample_of_configs_runs_forward_and_backward(figure):
    report(every_config(400, 99), 400, figure, "random configs, sample")


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(4))
def test_every_valid_config_runs_forward_and_backward(chunk, figure):
    report(every_config(500, chunk), 500, figure, f"random configs, chunk {chunk + 1} of 4")
