"""The target rescue's promises, each over a thousand drawn examples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from _support.measured import measure
from _support.shaken import closed, shaken, step3
from coordcbam import BlockConfig, CoordCBAM, commit_
from coordcbam.block.target import share

EXAMPLES = 1000
thousand = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
RATIO = st.floats(-2.0, 10.0)
LEVEL = st.floats(0.01, 0.99)
ALPHA = st.floats(0.01, 0.99)


def alpha_eff(alpha, r_hat, r_min, r_max=None):
    return alpha * share(torch.tensor(r_hat), r_min, r_max).item()


def test_alpha_eff_never_exceeds_alpha(figure):
    @thousand
    @given(r_hat=st.floats(allow_nan=False, width=32), r_min=LEVEL, alpha=ALPHA)
    def holds(r_hat, r_min, alpha):
        for r_max in (None, 1.5):
            assert 0.0 <= alpha_eff(alpha, r_hat, r_min, r_max) <= alpha

    holds()
    figure("0 <= alpha_eff <= alpha", f"{EXAMPLES} examples, 0 violations", "1000, 0")


def test_it_is_monotone_in_the_average(figure):
    @thousand
    @given(a=RATIO, b=RATIO, r_min=LEVEL)
    def holds(a, b, r_min):
        low, high = sorted((a, b))
        assert share(torch.tensor(low), r_min, None) <= share(torch.tensor(high), r_min, None)

    holds()
    figure("alpha_eff monotone in r_ema", f"{EXAMPLES} examples, 0 violations", "1000, 0")


def test_it_is_continuous_at_the_threshold(figure):
    worst = 0.0

    @thousand
    @given(r_min=LEVEL, step=st.floats(1e-6, 1e-3))
    def holds(r_min, step):
        nonlocal worst
        jump = abs(alpha_eff(1.0, r_min - step, r_min) - alpha_eff(1.0, r_min + step, r_min))
        worst = max(worst, jump - 1.01 * step / (1.0 - r_min))
        assert jump <= 1.01 * step / (1.0 - r_min) + 1e-5

    holds()
    figure("continuous at the threshold", f"{EXAMPLES} examples, 0 violations", "1000, 0")


@pytest.mark.long
def test_it_lands_on_r_min_for_a_stationary_input(figure):
    worst = 0.0

    @thousand
    @given(seed=st.integers(0, 10**6), r_min=st.floats(0.6, 0.95), bias=st.floats(-6.0, -2.5))
    def holds(seed, r_min, bias):
        nonlocal worst
        torch.manual_seed(seed)
        block = closed(step3(4, r_min=r_min), bias)
        x = torch.randn(2, 4, 3, 5)
        block(x)
        commit_(block)
        out = block.eval()(x)
        kept = measure(x, out, out - x, torch.ones(())).rho.item()
        want = max(r_min, block.r_ema.item())
        worst = max(worst, abs(kept - want))
        assert abs(kept - want) <= 1e-3

    holds()
    figure("lands on r_min", f"{EXAMPLES} examples, off by at most {worst:.1e}", "1e-3")


@pytest.mark.long
def test_no_scale_is_negative(figure):
    @thousand
    @given(
        seed=st.integers(0, 10**6),
        beta=st.floats(0.0, 1.0),
        coord=st.floats(0.0, 1.0),
        space=st.sampled_from(["lin", "log"]),
    )
    def holds(seed, beta, coord, space):
        torch.manual_seed(seed)
        config = BlockConfig.step3().replace(
            ca_space=space, coord_space=space, beta_ca=beta, coord_beta=coord, rescue_mode="watch"
        )
        block = shaken(CoordCBAM(3, config), 2.0).eval()
        assert (block(torch.ones(1, 3, 4, 3)) >= 0.0).all()

    holds()
    figure("scale >= 0", f"{EXAMPLES} examples, 0 violations", "1000, 0")


@pytest.mark.long
def test_it_recovers_within_thirty_steps(figure):
    """From the deepest average the certificate allows, once the block lets its signal through."""
    worst = 0

    @thousand
    @given(momentum=st.floats(0.05, 0.95), low=st.floats(0.57, 0.77), past=st.integers(1, 500))
    def holds(momentum, low, past):
        nonlocal worst
        block = step3(2, ema_momentum=momentum)
        block.r_ema.fill_(low)
        block.updates.fill_(past)
        x = torch.randn(1, 2, 3, 3)
        steps = 0
        while block.alpha_eff() < 0.75 and steps < 40:
            block(x)  # a fresh block: rho is 1
            commit_(block)
            steps += 1
        worst = max(worst, steps)
        assert steps <= 30

    holds()
    figure("recovers after healing", f"{EXAMPLES} examples, at most {worst} steps", "30 steps")


def test_train_and_eval_are_one_function_while_the_rescue_acts(figure):
    worst = 0.0
    for seed in range(50):
        torch.manual_seed(seed)
        block = closed(shaken(step3(16)), -4.0)
        x = torch.randn(4, 16, 7, 6)
        block(x)
        commit_(block)
        assert block.alpha_eff() < 0.74
        trained, evaluated = block(x), block.eval()(x)
        worst = max(worst, ((trained - evaluated).norm() / x.norm()).item())
    assert worst <= 1e-6
    figure("train/eval mismatch, rescue active", f"{worst:.1e} over 50 blocks", "1e-6")


SCALES = {
    torch.float32: (-15, 15),
    torch.bfloat16: (-37, 17),  # from the least normal number to where a batch counts as overflown
    torch.float16: (-4, 4),  # 6.1e-5 to 6.6e4
}


@pytest.mark.parametrize("dtype", SCALES)
def test_the_ratio_is_exact_for_every_scale_of_the_input(dtype, figure):
    low, high = SCALES[dtype]
    shape = torch.rand(4, 8, 9, 7) + 0.5
    gains = (0.65 + 0.7 * torch.rand(4, 8, 1, 1)).to(dtype)
    worst, tried = 0.0, 0
    for exponent in range(low, high + 1):
        x = (shape * 10.0**exponent).to(dtype)
        x = torch.where(torch.arange(7) % 2 == 0, x, -x)
        y = x * gains
        if not (x.isfinite().all() and y.isfinite().all()):
            continue
        alpha = torch.tensor(0.75)
        wide, out = x.double().flatten(1), y.double().flatten(1)
        exact = 1 + 0.75 * ((wide * out).sum(1) / (wide * wide).sum(1) - 1)
        error = abs(measure(x, y, y - x, alpha).rho.item() / exact.mean().item() - 1)
        assert error <= 1e-3, exponent
        worst, tried = max(worst, error), tried + 1
    assert tried >= high - low - 1
    name = str(dtype).removeprefix("torch.")
    figure(f"ratio exact, {name} 1e{low} to 1e{high}", f"off by at most {worst:.1e}", "1e-3")
