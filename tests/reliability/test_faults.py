"""One bad batch must cost one optimizer step, not the training.

Every fault is planted at the same moment of a training whose rescue acts; what follows is compared,
bit for bit, with the training that never saw it.
"""

import pytest
import torch

import coordcbam as cc
from _support.amp import BLOCKS, Net, applied_steps
from _support.faults import (
    DTYPES,
    HUGE,
    INF,
    NAN,
    NOT_FINITE,
    PLACES,
    SHAPE,
    Training,
    difference,
    fits,
    planted,
)

OURS = ("step 3", "Guard")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OURS)
def test_a_bad_batch_leaves_no_trace_but_its_count(name, dtype, figure):
    tried = 0
    for monitor in (True, False):
        training = Training(name, dtype, monitor=monitor)
        clean = training.rest()
        acts = training.block.alpha_eff() < training.block.alpha(training.good[0])
        assert bool(acts) == monitor, "the average would not show in the outputs"
        for value in NOT_FINITE + HUGE:
            if not fits(value, DTYPES[dtype]):
                continue
            for place in PLACES:
                bad = planted(value, place, DTYPES[dtype])
                commit = tried % 2 == 0  # a skipped step may commit, or leave it to the next
                found = difference(training.rest(bad, commit=commit), clean, counted=monitor)
                assert not found, (value, place, monitor, commit, found)
                tried += 1
    figure(f"faults survived, {name}, {dtype}", f"{tried} of {tried}", "100 %, bit for bit")


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_2_keeps_its_average_where_a_ratio_is_not_finite(dtype, figure):
    training = Training("step 2", dtype)
    clean = training.rest()
    assert 0.0 < clean[1]["r_ema"] < 1.0
    for value in NOT_FINITE:
        for place in PLACES:
            bad = planted(value, place, DTYPES[dtype])
            found = difference(training.rest(bad), clean, counted=0)
            assert not found, (value, place, found)
    tried = len(NOT_FINITE) * len(PLACES)
    figure(f"faults survived, step 2, {dtype}", f"{tried} of {tried}", "100 %, bit for bit")


QUIET = {
    "silent": torch.zeros(SHAPE),
    "below float32": torch.full(SHAPE, 1e-30),  # its squares are 0
    "empty": torch.ones(0, *SHAPE[1:]),
}


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("name", OURS)
def test_a_batch_that_tells_nothing_leaves_no_trace_but_its_count(name, warm, figure):
    """Also as the first of a training, by which a guard would judge itself."""
    training = Training(name, warm=warm)
    clean = training.rest()
    bad = {**QUIET, **{str(v): planted(v, "element", torch.float32) for v in NOT_FINITE + HUGE}}
    for case, batch in bad.items():
        found = difference(training.rest(batch), clean, counted=1)
        assert not found, (case, found)
        assert case not in QUIET or training.of_bad.isfinite().all(), case
    when = "first" if warm == 0 else "later"
    figure(f"quiet and bad batches, {name}, {when}", f"{len(bad)} of {len(bad)}", "100 %")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", OURS)
def test_faults_inside_a_compiled_graph(name, figure):
    torch._dynamo.reset()
    training = Training(
        name, run=lambda block: torch.compile(block, backend="aot_eager", fullgraph=True)
    )
    clean = training.rest()
    cases = [(NAN, "element"), (INF, "row"), (-INF, "channel"), (1e30, "sample"), (3e38, "batch")]
    for value, place in cases:
        found = difference(training.rest(planted(value, place, torch.float32)), clean, counted=1)
        assert not found, (value, place, found)
    figure(f"faults survived, {name}, compiled", f"{len(cases)} of {len(cases)}", "100 %")


def measured(training, x):
    """``rho`` of each sample by its definition, and what the block made of the batch."""
    block = training.block
    block.load_state_dict(training.moment)
    out = block.inner(x) if isinstance(block, cc.Guard) else block(x)  # nothing has acted yet
    block.tally.zero_()
    block(x)
    told = int(block.tally[1])
    cc.commit_(block)
    x, out = x.double().flatten(1), out.double().flatten(1)
    return (x * out).sum(1) / x.square().sum(1), told, block


@pytest.mark.parametrize("name", OURS)
def test_any_loudness_is_measured_exactly_or_skipped_and_counted(name, figure):
    """Of the whole batch; a guarded convolution adds its bias to the quietest, too."""
    training, exact = Training(name, warm=0), []
    sample = training.good[0][:1].expand(SHAPE)
    for exponent in range(-44, 39):
        rho, told, block = measured(training, sample * 10.0**exponent)
        assert told in (0, len(rho)), exponent
        if told:
            assert block.r_ema.item() == pytest.approx(rho.mean().item(), rel=1e-3), exponent
            assert (block.updates.item(), block.skipped.item()) == (1, 0)
            exact.append(exponent)
        else:
            assert (block.updates.item(), block.skipped.item()) == (0, 1), exponent
            assert block.r_ema.item() == 1.0
    assert set(range(-15 if name == "step 3" else -2, 16)) <= set(exact)
    text = f"exact from 1e{min(exact)} to 1e{max(exact)}, else skipped"
    figure(f"loud and quiet batches, {name}", text, "never wrong")


@pytest.mark.parametrize("name", OURS)
def test_a_sample_of_any_loudness_is_measured_exactly_or_left_out(name, figure):
    training, exact = Training(name, warm=0), []
    for exponent in range(-44, 39):
        x = training.good[0].clone()
        x[1] *= 10.0**exponent
        rho, told, block = measured(training, x)
        others = torch.tensor([i != 1 for i in range(len(rho))])
        if told:
            kept = rho if told == len(rho) else rho[others]
            assert len(kept) == told, exponent
            assert block.r_ema.item() == pytest.approx(kept.mean().item(), rel=1e-3), exponent
            exact.append(exponent)
        else:
            assert (block.r_ema.item(), block.skipped.item()) == (1.0, 1), exponent
    assert set(range(-44, 16)) <= set(exact)
    figure(
        f"a loud or quiet sample, {name}",
        f"exact up to 1e{max(exact)}, else skipped",
        "never wrong",
    )


@pytest.mark.parametrize(
    ("dtype", "fault"),
    [(torch.bfloat16, "pixel"), (torch.float16, "pixel"), (torch.float16, "gradient")],
)
@pytest.mark.parametrize("name", BLOCKS)
def test_one_bad_batch_costs_one_of_sixty_amp_steps(name, dtype, fault, figure):
    torch.manual_seed(0)
    net = Net(BLOCKS[name]()).train()
    net.block.monitor = True
    applied = applied_steps(net, dtype, fault=fault)
    assert applied == 59
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())
    if net.block.targets:
        # A broken gradient says nothing against what was measured in the forward.
        counts = (net.block.updates.item(), net.block.skipped.item())
        assert counts == ((59, 1) if fault == "pixel" else (60, 0))
    half = str(dtype).removeprefix("torch.")
    figure(f"AMP steps applied, {name}, {half}, bad {fault}", f"{applied} of 60", "59")
