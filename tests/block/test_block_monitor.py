"""The monitor and the rescue: the formulas, what leaves them alone, and what is odd on purpose."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from coordcbam import BlockConfig, CoordCBAM, GuardedResidual, MixConfig, RescueConfig, Stats
from coordcbam.block import OptionTypeError
from coordcbam.kernels import Pair
from coordcbam.notebook import step1, step2

SUPPRESSING = {"beta_ca": 1.0, "coord_beta": 1.0, "coord_scale_min": 1e-3, "alpha_init": 0.95}


def block_with(channels=8, **options):
    return CoordCBAM(channels, BlockConfig.from_notebook(**{"monitor": True, **options})).train()


def spread(x):
    return x.float().flatten(1).std(dim=1, unbiased=False).mean().item()


def closed(block):
    """Every gate shut: the channel gate near 0, both masks 0."""
    with torch.no_grad():
        block.ca.fc2.bias.fill_(-50.0)
        block.ca.fc2.weight.zero_()
        for head in (block.coord.h_attention_head, block.coord.w_attention_head):
            head.weight.zero_()
            head.bias.fill_(-50.0)
    return block


def last(block):
    return Stats(*block.stats.tolist())


@pytest.mark.parametrize("momentum", [0.95, 0.5])
@pytest.mark.parametrize("traced", [False, True], ids=["forward", "trace"])
def test_r_ema_is_the_running_average_of_r_out(momentum, traced):
    block = block_with(ema_momentum=momentum).double()
    average = 1.0
    for _ in range(5):
        x = torch.randn(3, 8, 6, 5, dtype=torch.float64)
        with torch.no_grad():
            quiet = CoordCBAM(8, BlockConfig.from_notebook(monitor=False)).double()
            quiet.load_state_dict(block.state_dict())
            out = quiet(x)  # alpha, not alpha_eff: r_ema never sees the rescue
        r_out = spread(out) / (spread(x) + 1e-12)
        average = momentum * average + (1 - momentum) * r_out
        block.trace(x) if traced else block(x)
        assert last(block).r_out_pre == pytest.approx(r_out, rel=1e-5)
        assert block.r_ema.item() == pytest.approx(average, rel=1e-6)
        assert last(block).r_ema == block.r_ema.item()


@pytest.mark.parametrize(
    ("mode", "r_ema", "share"),
    [
        ("ratio_floor", 0.45, 1.0),
        ("ratio_floor", 9.0, 1.0),
        ("ratio_floor", 0.225, 0.5),
        ("ratio_floor", 0.0, 0.2),
        ("ratio_floor", 0.0899, 0.2),
        ("alpha_floor", 0.45, 1.0),
        ("alpha_floor", 0.225, 0.5),
        ("alpha_floor", 0.0, 0.2 / 0.75),
        ("alpha_floor", 0.119, 0.2 / 0.75),
    ],
)
def test_both_rescue_modes(mode, r_ema, share):
    """alpha_eff from the r_ema that this batch leaves, exactly; the output is mixed with it."""
    block = block_with(rescue_mode=mode, ema_momentum=1 - 1e-9)
    block.r_ema.fill_(r_ema)
    x = torch.randn(2, 8, 6, 5)
    out = block(x)
    stats = last(block)
    assert stats.alpha == pytest.approx(0.75)
    assert stats.alpha_eff == pytest.approx(0.75 * share, abs=1e-6)
    full = block.eval()(x)
    torch.testing.assert_close(out - x, (full - x) * share, rtol=1e-4, atol=1e-6)


def test_the_floor_may_lie_above_alpha():
    """An oddity of the notebook that stays: alpha_floor then strengthens a healthy block."""
    block = block_with(rescue_mode="alpha_floor", alpha_init=0.1, alpha_eff_min=0.6)
    block(torch.randn(2, 8, 6, 5))
    assert block.r_ema.item() > 0.45
    assert last(block).alpha == pytest.approx(0.1)
    assert last(block).alpha_eff == pytest.approx(0.6)


def test_eval_ignores_the_rescue():
    block = closed(block_with(**SUPPRESSING))
    block.r_ema.fill_(0.05)
    x = torch.randn(2, 8, 6, 5)
    rescued = block(x)
    block.eval()
    plain = block(x)
    assert spread(plain) < 0.2 * spread(x) < 0.6 * spread(x) < spread(rescued)
    assert block.r_ema.item() == pytest.approx(
        0.95 * 0.05 + 0.05 * spread(plain) / spread(x), rel=1e-4
    )
    assert block.trace(x).stats.alpha_eff == pytest.approx(block.trace(x).stats.alpha)


def test_a_suppressing_block_is_rescued_and_recovers():
    block = closed(block_with(**SUPPRESSING))
    ratios = []
    for _ in range(60):
        block(torch.randn(2, 8, 6, 5))
        ratios.append(last(block).alpha_eff)
    assert ratios[0] == pytest.approx(0.95)
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(0.95 * 0.2, rel=0.2)
    with torch.no_grad():
        block.ca.fc2.bias.fill_(50.0)
        block.coord.h_attention_head.bias.fill_(50.0)
        block.coord.w_attention_head.bias.fill_(50.0)
    for steps in range(1, 31):
        block(torch.randn(2, 8, 6, 5))
        if last(block).alpha_eff == last(block).alpha:
            break
    assert last(block).alpha_eff == last(block).alpha, "not back within 30 steps"


@pytest.mark.parametrize("traced", [False, True], ids=["forward", "trace"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("where", ["one element", "one sample", "everywhere"])
def test_a_non_finite_batch_leaves_no_mark(bad, where, traced):
    """r_ema and every later output equal a run that never saw the batch."""
    torch.manual_seed(3)
    spared, hit = block_with(), block_with()
    hit.load_state_dict(spared.state_dict())
    good = [torch.randn(2, 8, 6, 5) for _ in range(4)]
    poison = torch.randn(2, 8, 6, 5)
    {"one element": poison[0, 0, 0], "one sample": poison[1], "everywhere": poison}[where].fill_(
        bad
    )
    for i, x in enumerate(good):
        if i == 2:
            before = hit.r_ema.clone()
            hit.trace(poison) if traced else hit(poison)
            assert not math.isfinite(last(hit).r_out_pre)
            assert torch.equal(hit.r_ema, before)
            assert last(hit).r_ema == before.item()
        assert torch.equal(spared(x), hit(x))
    assert torch.equal(spared.r_ema, hit.r_ema)
    assert spared.r_ema.item() != 1.0


@pytest.mark.parametrize("x", [torch.zeros(2, 8, 4, 4), torch.full((2, 8, 4, 4), 7.0)])
def test_a_batch_without_variance_counts(x):
    """As in the notebook: zeros are r_out 0, a constant is clamped into [0, 10]; both finite."""
    block = block_with()
    block(x)
    r_out = last(block).r_out_pre
    assert 0.0 <= r_out <= 10.0
    assert block.r_ema.item() == pytest.approx(0.95 + 0.05 * r_out)


@pytest.mark.parametrize(
    ("training", "monitor", "bypassed"),
    [(False, True, False), (True, False, False), (False, False, False), (True, True, True)],
)
@pytest.mark.parametrize("traced", [False, True], ids=["forward", "trace"])
def test_who_does_not_measure(training, monitor, bypassed, traced):
    block = block_with().train(training)
    block.monitor, block.bypassed = monitor, bypassed
    x = torch.randn(2, 8, 6, 5)
    block.trace(x) if traced else block(x)
    assert block.r_ema.item() == 1.0
    assert block.stats.isnan().all()


@pytest.mark.parametrize("value", ["off", 1, 0, None, "True", torch.tensor(True)])
@pytest.mark.parametrize("make", [lambda: CoordCBAM(8), lambda: step2.CBAMChannelPlusCoord(8)])
def test_monitor_is_a_bool(make, value):
    block = make()
    with pytest.raises(OptionTypeError, match=r"monitor=.*expected True or False"):
        block.monitor = value
    assert block.monitor is False
    block.monitor = True
    assert block.monitor is True


@pytest.mark.parametrize(
    "make", [lambda: CoordCBAM(8, BlockConfig.step1()), lambda: step1.CBAMChannelPlusCoord(8)]
)
def test_step1_can_be_watched(make):
    """Numbers without a running average, and no rescue."""
    block = make().train()
    x = torch.randn(2, 8, 6, 5)
    before = block(x)
    block.monitor = True
    assert torch.equal(block(x), before)
    stats = last(block)
    assert math.isnan(stats.r_ema)
    assert 0 < stats.r_out_pre < 1
    assert stats.alpha == stats.alpha_eff == pytest.approx(0.75)


def test_without_residual_nothing_is_averaged():
    block = block_with(residual=False)
    x = torch.randn(2, 8, 6, 5)
    out = block(x)
    stats = last(block)
    assert "alpha_raw" not in block.state_dict()
    assert block.r_ema.item() == 1.0
    assert stats.alpha == stats.alpha_eff == 1.0
    assert stats.y_std == stats.out_std_pre == pytest.approx(spread(out))
    assert torch.equal(block.eval()(x), out)


def test_every_field_of_the_stats():
    """Each named number recomputed from the trace's maps."""
    block = block_with(learnable_temperature=True)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 8, 6, 5)
    t = block.trace(x)
    s = {name: value.item() for name, value in t.stats._asdict().items()}
    assert torch.equal(torch.stack(t.stats).nan_to_num(-1.0), block.stats.nan_to_num(-1.0))
    gate, rows, cols = t.channel.gate, t.coord.rows, t.coord.cols
    y = x + (t.out - x) / 0.75
    want = {
        "x_std": spread(x),
        "r_block": s["y_std"] / s["x_std"],
        "r_out_pre": s["out_std_pre"] / s["x_std"],
        "r_ema": 0.95 + 0.05 * s["r_out_pre"],
        "alpha": 0.75,
        "alpha_eff": 0.75,
        "ca_mean": gate.mean().item(),
        "ca_min": gate.min().item(),
        "ca_max": gate.max().item(),
        "fusion_avg": t.channel.fusion[:, 0].mean().item(),
        "fusion_max": t.channel.fusion[:, 1].mean().item(),
        "T": t.channel.temperature.item(),
        "gain_mean": (y / x).mean().item(),
    }
    for name, mask in (("a_h", rows), ("a_w", cols)):
        for key in ("min", "mean", "max", "std"):
            want[f"{name}_{key}"] = getattr(mask, key)().item()
    want["y_std"] = spread(y)
    want["out_std_pre"] = spread(t.out)
    unknown = {"rho", "rms", "skipped"}  # the target rescue's own
    assert want.keys() == s.keys() - unknown
    assert all(math.isnan(s[name]) for name in unknown)
    for name, value in want.items():
        assert s[name] == pytest.approx(value, rel=1e-4), name
    assert s["fusion_avg"] + s["fusion_max"] == pytest.approx(1.0)
    assert Stats._fields[:8] == (
        "x_std",
        "y_std",
        "out_std_pre",
        "r_block",
        "r_out_pre",
        "r_ema",
        "alpha",
        "alpha_eff",
    )


def test_a_sum_has_no_router_weights():
    block = block_with(ca_fusion="sum")
    t = block.trace(torch.randn(2, 8, 6, 5))
    assert t.channel.fusion is None
    assert t.stats.fusion_avg.isnan()
    assert t.stats.fusion_max.isnan()


def test_the_monitor_adds_nothing_to_the_graph():
    """Measured without gradients: the same gradients with and without it, while the rescue rests."""
    torch.manual_seed(0)
    loud, quiet = block_with(), block_with(monitor=False)
    quiet.load_state_dict(loud.state_dict())
    x = torch.randn(2, 8, 6, 5)
    loud(x).square().sum().backward()
    quiet(x).square().sum().backward()
    for (name, a), b in zip(loud.named_parameters(), quiet.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    assert not loud.stats.requires_grad
    assert not loud.r_ema.requires_grad
    assert not any(value.requires_grad for value in loud.trace(x).stats)


class Syncs(TorchDispatchMode):
    """Counts what copies a number to the host: ``.item()``, ``float()``, ``bool()``, ``.tolist()``."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name() if hasattr(func, "name") else str(func)
        self.count += "_local_scalar_dense" in name or "is_nonzero" in name or "nonzero" in name
        return func(*args, **(kwargs or {}))


def test_the_counter_counts():
    with Syncs() as syncs:
        torch.ones(3).sum().item()
        float(torch.ones(()))
        bool(torch.ones(()) > 0)
    assert syncs.count == 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("traced", [False, True], ids=["forward", "trace"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ca_fusion": "sum", "learnable_temperature": True, "coord_use_spatial_gate": True},
        {"rescue_mode": "alpha_floor", "residual": True, "learnable_alpha": True},
        {"residual": False, "coord_norm": "bn"},
    ],
)
def test_no_host_sync(options, traced, training):
    block = block_with(**options).train(training)
    x = torch.randn(2, 8, 6, 5, requires_grad=True)
    with Syncs() as syncs:
        out = block.trace(x).out if traced else block(x)
        out.sum().backward()
    assert syncs.count == 0


def test_no_host_sync_in_step1():
    block = CoordCBAM(8, BlockConfig.step1()).train()
    block.monitor = True
    with Syncs() as syncs:
        block(torch.randn(2, 8, 6, 5))
        block.trace(torch.randn(2, 8, 6, 5))
    assert syncs.count == 0


class Halved(GuardedResidual):
    """A foreign attention: y = x / 2."""

    def forward(self, x):
        stats = [torch.zeros(())] * (len(Stats._fields) - 11)
        return self.blend(Pair(x, x * 0.5), lambda: stats, traced=False)[0]


def test_the_mix_serves_any_block():
    guard = Halved(MixConfig(alpha_init=0.5), RescueConfig(monitor=True)).train()
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(guard(x), 0.75 * x)
    assert guard.r_ema.item() == pytest.approx(0.95 + 0.05 * 0.75)
    assert list(guard.state_dict()) == ["alpha_raw", "r_ema"]


def test_a_learnable_alpha_learns_through_the_rescue():
    block = block_with(learnable_alpha=True)
    block.r_ema.fill_(0.2)
    block(torch.randn(2, 8, 6, 5)).square().sum().backward()
    assert block.alpha_raw.grad.abs() > 0
    assert last(block).alpha_eff < last(block).alpha


def test_a_trace_of_a_bypassed_block_shows_what_it_returns():
    block = block_with().eval()
    x = torch.randn(2, 8, 6, 5)
    attended = block.trace(x).out
    block.bypassed = True
    assert torch.equal(block.trace(x).out, x)
    assert not torch.equal(attended, x)
