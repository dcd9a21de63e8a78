"""The target rescue: what is measured, how the average moves, and what then acts on the signal."""

import copy
import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from _support.measured import measure
from _support.shaken import closed, shaken, step3
from coordcbam import CoordCBAM, Guard, Stats, commit_
from coordcbam.block import energy, target
from coordcbam.block.target import share

ALPHA = torch.tensor(0.75)
# Channel gate shut, then both masks at their strength of 0.7, then the mix.
CLOSED_ALONE = 0.65 * (1 + 0.35 * (0.3 * 0.3 - 1))
CLOSED = 1 + 0.75 * (CLOSED_ALONE - 1)


@pytest.fixture(params=["by the kernels", "by pytorch"], autouse=True)
def way(request, monkeypatch):
    """The same bookkeeping, on numbers at hand and in operations for any device."""
    if request.param == "by pytorch":
        monkeypatch.setattr(energy, "tells", lambda *_: False)
        monkeypatch.setattr(target, "commits", lambda *_: False)


def last(block):
    return Stats(*block.stats.tolist())


def rho_of(x, out):
    """By the definition, in float64: mean over samples of <x, out> / <x, x>."""
    x, out = x.double().flatten(1), out.double().flatten(1)
    return ((x * out).sum(1) / (x * x).sum(1)).mean().item()


# --- the measure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_number_against_its_definition(layout):
    x = (torch.randn(3, 4, 6, 5) + 0.5).to(memory_format=layout)
    y = x * torch.rand(3, 4, 6, 5)
    out = x + 0.75 * (y - x)
    kept = measure(x, y, y - x, ALPHA)
    assert kept.rho.item() == pytest.approx(rho_of(x, out), rel=1e-6)
    norms = (out.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean()
    assert kept.rms.item() == pytest.approx(norms.item(), rel=1e-6)
    for measured, signal in zip(kept.std, (x, y, out), strict=True):
        std = signal.flatten(1).std(dim=1, unbiased=False).mean().item()
        assert measured.item() == pytest.approx(std, rel=1e-5)
    assert kept.tally.tolist() == pytest.approx([3 * kept.rho.item(), 3.0, 0.0, 0.0])


@pytest.mark.parametrize("value", [7.0, 1.1, 0.3, 1e-3, 123.4567])
def test_a_constant_has_no_deviation(value):
    """What rounding leaves of its variance is of either sign."""
    x = torch.full((2, 8, 5, 7), value)
    assert [std.item() for std in measure(x, 0.5 * x, -0.5 * x, ALPHA).std] == [0.0] * 3


def test_rho_stays_inside_the_gains_where_a_ratio_of_deviations_does_not():
    x = torch.tensor([1.0, 0.6]).view(1, 2, 1, 1).expand(1, 2, 8, 8) + 1e-4 * torch.randn(
        1, 2, 8, 8
    )
    gains = torch.tensor([0.65, 1.0]).view(1, 2, 1, 1)
    kept = measure(x, x * gains, x * gains - x, torch.tensor(1.0))
    assert (kept.std[2] / kept.std[0]).item() < 0.3
    assert 0.65 <= kept.rho.item() <= 1.0


def test_a_silent_sample_is_left_out():
    x = torch.randn(4, 2, 5, 5)
    x[1] = 0.0
    kept = measure(x, 0.5 * x, -0.5 * x, ALPHA)
    assert kept.rho.item() == pytest.approx(0.625)
    assert kept.tally.tolist() == pytest.approx([3 * 0.625, 3, 0, 0])


@pytest.mark.parametrize("batch", [0, 3])
def test_a_batch_without_a_signal_is_unusable(batch):
    x = torch.zeros(batch, 2, 5, 5)
    kept = measure(x, x, 0.0 * x, ALPHA)
    assert kept.tally.tolist() == [0, 0, 0, 1]
    assert math.isnan(kept.rho.item())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 3e38])
@pytest.mark.parametrize("where", ["x", "y", "both"])
def test_one_bad_element_makes_the_batch_unusable(value, where):
    x, y = torch.randn(4, 2, 5, 5), torch.randn(4, 2, 5, 5)
    for name, signal in (("x", x), ("y", y)):
        if where in (name, "both"):
            signal[2, 1, 3, 4] = value
    kept = measure(x, y, y - x, ALPHA)
    assert kept.tally.tolist() == [0, 0, 1, 0]


def test_a_matrix_products_precision_is_not_taken():
    x = torch.randn(1, 16, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = measure(x, 0.5 * x, -0.5 * x, ALPHA)
    assert kept.rho.item() == pytest.approx(0.625, rel=1e-6)
    assert kept.rho.dtype == torch.float32


def test_double_is_measured_in_double():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    kept = measure(x, 0.1 * x, -0.9 * x, ALPHA.double())
    assert kept.rho.dtype == torch.float64
    assert kept.rho.item() == pytest.approx(0.325, rel=1e-13)


# --- the rule -------------------------------------------------------------------------------------


def test_the_share():
    r_hat = torch.tensor([-1.0, 0.0, 0.25, 0.5, 0.500001, 1.0, 2.0])
    want = [0.25, 0.5, 2 / 3, 1.0, 1.0, 1.0, 1.0]
    assert share(r_hat, 0.5, None).tolist() == pytest.approx(want)
    mirrored = share(torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0]), 0.5, 1.5)
    assert mirrored.tolist() == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.25])


def test_it_lands_on_r_min_alike_in_train_and_eval():
    block = closed(step3())
    x = torch.randn(4, 8, 6, 6)
    assert rho_of(x, block(x)) == pytest.approx(CLOSED, abs=1e-5)  # nothing is known yet
    commit_(block)
    assert block.r_ema.item() == pytest.approx(CLOSED, rel=1e-5)
    trained = block(x)
    assert rho_of(x, trained) == pytest.approx(block.rescue.r_min, abs=1e-5)
    assert last(block).rho == pytest.approx(CLOSED, rel=1e-5)  # measured with alpha, no feedback
    assert last(block).alpha_eff == pytest.approx(block.alpha_eff().item())
    assert torch.equal(trained, block.eval()(x))
    block.monitor = False
    assert torch.equal(trained, block(x))
    assert torch.equal(trained, block.train()(x))
    unseen = copy.deepcopy(block)  # for which nothing is kept ready
    assert torch.equal(trained, unseen(x))
    assert unseen.alpha_eff().item() < unseen.alpha(x).item()


def test_r_max_holds_amplification():
    block = closed(step3(r_max=1.2), logit=50.0)
    x = torch.randn(4, 8, 6, 6)
    block(x)
    commit_(block)
    assert block.r_ema.item() == pytest.approx(1.87, rel=1e-5)
    assert rho_of(x, block(x)) == pytest.approx(1.2, abs=1e-5)
    free = closed(step3(), logit=50.0)
    free(x)
    commit_(free)
    assert rho_of(x, free(x)) == pytest.approx(1.87, abs=1e-4)


def test_watching_never_acts():
    block = closed(step3(rescue_mode="watch"))
    twin = closed(step3(monitor=False))
    x = torch.randn(4, 8, 6, 6)
    for _ in range(3):
        assert torch.equal(block(x), twin(x))
        commit_(block)
    assert block.r_ema.item() == pytest.approx(CLOSED, rel=1e-5)
    assert block.updates.item() == 3
    assert last(block).alpha_eff == last(block).alpha == pytest.approx(0.75)


def test_no_residual_measures_and_cannot_act():
    block = closed(step3(residual=False))
    x = torch.randn(2, 8, 5, 5)
    block(x)
    commit_(block)
    assert block.r_ema.item() == pytest.approx(CLOSED_ALONE, rel=1e-5)
    torch.testing.assert_close(block(x), CLOSED_ALONE * x)


@pytest.mark.parametrize("guarded", [False, True])
def test_a_brief_forward_is_the_same_and_writes_no_numbers(guarded):
    """Between two readings of a monitor only what moves the average is measured."""
    block = Guard(torch.nn.Conv2d(8, 8, 1)).train() if guarded else closed(step3())
    twin = copy.deepcopy(block)
    twin.detailed = False
    for _ in range(3):
        x = torch.randn(4, 8, 6, 6)
        assert torch.equal(block(x), twin(x))
        assert torch.equal(block.tally, twin.tally)
        commit_(block)
        commit_(twin)
    assert torch.equal(block.r_ema, twin.r_ema)
    assert block.alpha_eff() < block.alpha(x)
    assert twin.stats.isnan().all()


# --- the average ----------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.95, 0.5, 0.999])
def test_the_average_has_no_bias_of_its_start(momentum):
    block = shaken(step3(ema_momentum=momentum))
    values = []
    for _ in range(6):
        block(torch.randn(3, 8, 5, 5))
        values.append(last(block).rho)
        commit_(block)
        weights = [momentum ** (len(values) - 1 - i) for i in range(len(values))]
        want = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert block.r_ema.item() == pytest.approx(want, rel=1e-5)
    assert block.updates.item() == 6


def test_a_forward_uses_the_average_before_its_batch():
    block = closed(step3())
    x = torch.randn(2, 8, 5, 5)
    for _ in range(2):
        out = block(x)
        assert block.r_ema.item() == 1.0
        assert last(block).r_ema == 1.0
    torch.testing.assert_close(out, closed(step3(monitor=False))(x))


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_accumulation_is_one_update(pieces):
    block = shaken(step3())
    whole = copy.deepcopy(block)
    x = torch.randn(8, 8, 5, 5)
    whole(x)
    commit_(whole)
    for part in x.chunk(pieces):
        block(part)
    commit_(block)
    assert block.updates.item() == whole.updates.item() == 1
    assert block.r_ema.item() == pytest.approx(whole.r_ema.item(), rel=1e-6)


def test_a_module_used_twice_is_one_update():
    block = shaken(step3())
    first, second = torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)
    values = []
    for x in (first, second):
        block(x)
        values.append(last(block).rho)
    commit_(block)
    assert block.updates.item() == 1
    assert block.r_ema.item() == pytest.approx(sum(values) / 2, rel=1e-6)


@pytest.mark.parametrize(
    "quiet", ["eval", "no_grad", "inference", "monitor off", "bypassed", "nothing"]
)
def test_what_does_not_count(quiet):
    block = closed(step3())
    x = torch.randn(2, 8, 5, 5)
    if quiet == "eval":
        block.eval()(x)
    elif quiet == "no_grad":
        with torch.no_grad():
            block(x)
    elif quiet == "inference":
        with torch.inference_mode():
            block(x)
    elif quiet == "monitor off":
        block.monitor = False
        block(x)
    elif quiet == "bypassed":
        block.bypassed = True
        assert block(x) is x
    commit_(block)
    assert (block.r_ema.item(), block.updates.item(), block.skipped.item()) == (1.0, 0, 0)


def test_a_trace_reads_and_does_not_count_in_eval():
    block = closed(step3())
    trace = block.eval().trace(torch.randn(2, 8, 5, 5))
    assert trace.stats.rho.item() == pytest.approx(CLOSED, rel=1e-5)
    commit_(block)
    assert block.updates.item() == 0
    assert block.stats.isnan().all()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_leaves_average_and_gradients_alone(reentrant):
    """The recomputed pass is the same function, also while the rescue acts."""
    block = closed(step3())
    x = torch.randn(4, 8, 6, 6)
    block(x)
    commit_(block)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    runs = {}
    for name in ("plain", "checkpointed"):
        trial, leaf = copy.deepcopy(block), x.clone().requires_grad_()
        out = trial(leaf) if name == "plain" else checkpoint(trial, leaf, use_reentrant=reentrant)
        assert last(trial).alpha_eff < 0.74 or name == "checkpointed"
        out.square().sum().backward()
        commit_(trial)
        gradients = [leaf.grad, *(p.grad for p in trial.parameters())]
        runs[name] = (gradients, trial.r_ema.clone(), trial.updates.item())
    for one, two in zip(runs["plain"][0], runs["checkpointed"][0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(runs["plain"][1], runs["checkpointed"][1], rtol=1e-6, atol=0)
    assert runs["plain"][2] == runs["checkpointed"][2] == 2


def test_compiled_in_one_graph_with_the_monitor_on():
    block = closed(step3())
    compiled = torch.compile(copy.deepcopy(block), backend="aot_eager", fullgraph=True)
    for _ in range(3):
        x = torch.randn(2, 8, 5, 5)
        torch.testing.assert_close(compiled(x), block(x))
        commit_(compiled)
        commit_(block)
    torch.testing.assert_close(compiled.r_ema, block.r_ema)
    assert compiled.updates.item() == 3


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_counters_and_average_stay_wide(narrow):
    block = closed(step3())
    x = torch.randn(2, 8, 5, 5)
    block(x)
    block.to(narrow)
    assert block.tally.dtype == torch.float32
    assert block.tally[1] == 2
    block(x.to(narrow))
    commit_(block)
    assert block.r_ema.dtype == torch.float32
    assert block.updates.dtype == block.skipped.dtype == torch.int64
    assert block.r_ema.item() == pytest.approx(CLOSED, rel=1e-2)


def test_the_tally_is_in_no_checkpoint_and_moves_with_the_block():
    block = step3()
    assert "tally" not in block.state_dict()
    assert "tally" not in dict(block.named_buffers())
    assert block.double().tally.dtype == torch.float64
    assert block.to("meta").tally.is_meta
    assert copy.deepcopy(step3()).tally is not block.tally


def test_averages_resume_from_a_state():
    block = shaken(step3())
    for _ in range(3):
        block(torch.randn(2, 8, 5, 5))
        commit_(block)
    twin = CoordCBAM(8).train()
    twin.load_state_dict(block.state_dict())
    twin.monitor = True
    x = torch.randn(2, 8, 5, 5)
    for trial in (block, twin):
        trial(x)
        commit_(trial)
    assert torch.equal(block.r_ema, twin.r_ema)
    assert block.updates.item() == twin.updates.item() == 4


# --- narrow dtypes --------------------------------------------------------------------------------

NARROW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_numbers_against_their_definition(dtype):
    x = (100.0 * torch.randn(3, 4, 6, 5)).to(dtype)
    y = (x * torch.rand(3, 4, 1, 1)).to(dtype)
    x[1] = y[1] = 0.0
    kept = measure(x, y, y - x, ALPHA)
    mix = x.double() + 0.75 * (y.double() - x.double())
    loud = [0, 2]
    assert kept.rho.item() == pytest.approx(rho_of(x[loud], mix[loud]), rel=1e-6)
    assert kept.tally.tolist() == pytest.approx([2 * kept.rho.item(), 2.0, 0.0, 0.0])
    for measured, signal in zip(kept.std, (x, y, mix), strict=True):
        std = signal.double().flatten(1).std(dim=1, unbiased=False).mean().item()
        assert measured.item() == pytest.approx(std, rel=1e-5)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_change_that_rounds_to_minus_the_input_is_measured_itself(dtype):
    """``y - x`` is -1 in bfloat16 for a signal kept to a thousandth: nothing would seem left."""
    x = torch.ones(1, 2, 4, 4, dtype=dtype)
    y = (1e-3 * x).to(dtype)
    kept = measure(x, y, y - x, torch.ones(()))
    assert kept.rho.item() == pytest.approx(y[0, 0, 0, 0].item(), rel=1e-3)


@pytest.mark.parametrize("exponent", [-30, -20, 15])
def test_bfloat16_is_measured_where_float32_squares_end(exponent):
    x = (10.0**exponent * (1.0 + torch.rand(2, 3, 4, 4))).bfloat16()
    kept = measure(x, 0.5 * x, -0.5 * x, ALPHA)
    assert kept.rho.item() == pytest.approx(0.625, rel=1e-3)
    assert kept.tally[1:].tolist() == [2, 0, 0]


def test_bfloat16_beyond_float32_squares_is_unusable():
    x = torch.randn(4, 2, 5, 5).bfloat16()
    x[2, 1, 3, 4] = 1e30
    assert measure(x, 0.5 * x, -0.5 * x, ALPHA).tally.tolist() == [0, 0, 1, 0]


# --- what tells nothing ---------------------------------------------------------------------------


def test_a_sample_that_the_block_drowns_is_left_out():
    """Of an output a thousand times as loud, float32 cannot tell how much was the input."""
    x = torch.randn(3, 2, 5, 5)
    y = 0.5 * x
    x[1] *= 1e-3
    kept = measure(x, y, y - x, ALPHA)
    assert kept.tally.tolist() == pytest.approx([2 * 0.625, 2, 0, 0])


# --- bad micro-batches ----------------------------------------------------------------------------


def test_a_bad_micro_batch_costs_itself_and_counts_its_step_once():
    block = shaken(step3())
    twin, good = copy.deepcopy(block), torch.randn(2, 8, 5, 5)
    for x in (good, math.nan * good, math.inf * good):
        block(x)
    for x in (good, 0.0 * good):  # silence is no fault where the step has a signal
        twin(x)
    for each in (block, twin):
        commit_(each)
    assert torch.equal(block.r_ema, twin.r_ema)
    assert block.r_ema != 1.0
    assert (block.updates, block.skipped) == (1, 1)
    assert (twin.updates, twin.skipped) == (1, 0)
    block(math.nan * good)
    commit_(block)
    assert torch.equal(block.r_ema, twin.r_ema)
    assert (block.updates, block.skipped) == (1, 2)
