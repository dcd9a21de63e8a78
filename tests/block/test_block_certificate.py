"""The certificate: no block leaves its bounds, and every word of it can be provoked."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from _support.shaken import closed, shaken, step3
from coordcbam import BlockConfig, CoordCBAM, certify
from coordcbam.block import OptionTypeError, OptionValueError, all_rules

STEP2, STEP3 = BlockConfig.step2(), BlockConfig.step3()
LOG = STEP3.replace(ca_space="log", coord_space="log")


@pytest.mark.parametrize(
    ("config", "low", "high", "start"),
    [
        (BlockConfig.step1(), 0.25, 1.0, 0.549203125),
        (STEP2, 0.566875, 1.0, 0.743685156),
        (STEP3, 0.566875, 1.87, 1.0),
        (LOG, 0.597222, 1.87, 1.0),
        (STEP2.replace(init="calibrated"), 0.731392, 1.389390, 1.0),
        (STEP3.replace(residual=False), 0.4225, 2.16, 1.0),
        (STEP3.replace(learnable_alpha=True), 0.4225, 2.16, 1.0),
        (STEP3.replace(coord_learnable_alpha=False), 1 + 0.75 * (0.65 * 0.6815 - 1), 1.87, 1.0),
        (
            LOG.replace(coord_learnable_alpha=False),
            1 + 0.75 * (1.6**-0.7 / 1.35 - 1),
            1 + 0.75 * (1.35 * 1.6**0.7 - 1),
            1.0,
        ),
        (STEP3.replace(coord_use_spatial_gate=True), 1 + 0.75 * (0.65**3 - 1), 2.437, 1.0),
        (STEP2.replace(beta_ca=2.0), 1 + 0.75 * (-1.0 - 1), 1.0, None),
        (STEP2.replace(coord_beta=-1.0), 1 + 0.75 * (0.65 - 1), 1.45, None),
    ],
)
def test_bounds_by_hand(config, low, high, start):
    sure = certify(config)
    assert (sure.gain_min, sure.gain_max) == pytest.approx((low, high), abs=1e-6)
    if start is not None:
        assert sure.gain_at_start == pytest.approx(start, abs=1e-6)


def configs():
    """Configs of all spaces whose certificate is not trivial."""
    unit = st.floats(0.0, 1.0, allow_nan=False).map(lambda v: round(v, 3))
    return st.builds(
        lambda space, beta, coord, alpha, strength, low, high, spatial, learn, kind: (
            BlockConfig.step3().replace(
                ca_space=space,
                coord_space=space,
                beta_ca=beta,
                coord_beta=coord,
                alpha_init=alpha,
                coord_init_alpha=strength,
                coord_scale_min=low,
                coord_scale_max=high,
                coord_use_spatial_gate=spatial,
                coord_learnable_alpha=learn,
                learnable_alpha=learn,
                coord_norm="none",
                init=kind if space == "gate" else "identity",
                rescue_mode="watch",
            )
        ),
        st.sampled_from(["gate", "lin", "log"]),
        unit,
        unit,
        unit,
        unit,
        st.sampled_from([0.3, 0.6, 1.0]),
        st.sampled_from([1.1, 1.6, 3.0]),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["notebook", "calibrated"]),
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(config=configs(), seed=st.integers(0, 10**6), std=st.sampled_from([0.3, 3.0, 300.0]))
def test_no_block_ever_leaves_the_certified_interval(config, seed, std):
    """Weights from calm to saturated, inputs of one sign, so that out / x is the gain itself."""
    torch.manual_seed(seed)
    block = shaken(CoordCBAM(4, config), std).double().eval()
    sure = certify(config)
    x = torch.rand(2, 4, 5, 6, dtype=torch.float64) + 0.5
    gain = block(x) / x
    assert gain.min().item() >= sure.gain_min - 1e-6
    assert gain.max().item() <= sure.gain_max + 1e-6


@pytest.mark.parametrize("config", [STEP2, STEP3, LOG], ids=["step2", "step3", "log"])
def test_the_bounds_are_reached(config):
    sure = certify(config)
    for logit, end in ((-50.0, sure.gain_min), (50.0, sure.gain_max)):
        block = closed(CoordCBAM(4, config), logit).eval()
        nn.init.constant_(block.coord.alpha_h_raw, 30.0)
        nn.init.constant_(block.coord.alpha_w_raw, 30.0)
        gain = block(torch.ones(1, 4, 3, 3)).mean().item()
        assert gain == pytest.approx(end, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "fires", "falsely"),
    [
        (STEP2, False, True),
        (STEP2.replace(r_min=0.6), True, True),
        (STEP2.replace(r_min=None), True, True),
        (STEP2.replace(rescue_mode="target", r_min=None), True, False),
        (STEP2.replace(beta_ca=0.0, coord_beta=0.0), False, False),
        (STEP3, True, False),
        (STEP3.replace(r_min=0.56), False, False),
        (STEP3.replace(rescue_mode="watch"), False, False),
        (STEP3.replace(residual=False), False, False),
        (BlockConfig.step1(), False, False),
    ],
)
def test_whether_the_rescue_can_fire(config, fires, falsely):
    sure = certify(config)
    assert (sure.rescue_can_fire, sure.can_fire_falsely) == (fires, falsely)


def test_derived_thresholds():
    assert certify(STEP3).r_min == pytest.approx(0.7834375)
    assert certify(STEP2.replace(r_min=None)).r_min == pytest.approx(0.655280, abs=1e-6)
    assert step3().rescue.r_min == certify(STEP3).r_min
    assert step3().config.rescue.r_min is None


@pytest.mark.parametrize(
    ("config", "clamps"),
    [
        (STEP2, {"coord_scale_min": False, "coord_scale_max": False}),
        (STEP3, {"coord_scale_min": False, "coord_scale_max": True}),
        (STEP3.replace(coord_beta=0.6), {"coord_scale_min": True, "coord_scale_max": True}),
        (LOG, {}),
        (STEP3.replace(coord_scale_min=None, coord_scale_max=None), {}),
    ],
)
def test_which_scale_clamps_can_bind(config, clamps):
    sure = certify(config)
    assert {k: v for k, v in sure.clamps.items() if k.startswith("coord")} == clamps
    assert sure.scale_clamp_can_bind == any(clamps.values())


@pytest.mark.parametrize(
    ("flags", "low", "high"),
    [
        ({}, False, False),
        ({"ca_temperature": 9.0}, False, True),
        ({"ca_temperature": 0.1}, True, False),
        ({"learnable_temperature": True}, False, False),
        ({"learnable_temperature": True, "ca_t_map": "softplus"}, True, True),
    ],
)
def test_which_temperature_clamps_can_bind(flags, low, high):
    clamps = certify(STEP3.replace(**flags)).clamps
    assert (clamps["ca_t_min"], clamps["ca_t_max"]) == (low, high)


IDLE_CASES = {
    "step1": BlockConfig.step1(),
    "step2": STEP2,
    "step3": STEP3,
    "log": LOG,
    "sum": STEP3.replace(ca_fusion="sum"),
    "watch": STEP3.replace(rescue_mode="watch", r_min=0.5),
    "bare": STEP3.replace(residual=False),
    "learning": STEP3.replace(learnable_temperature=True, coord_use_spatial_gate=True),
}


def others(rule, now):
    """Other values of one option, near its present one; of a clamp that never binds, looser ones."""
    if rule.flag.endswith(("scale_min", "t_min")) and now is not None:
        return [0.9 * now]
    if rule.flag.endswith(("scale_max", "t_max")) and now is not None:
        return [1.1 * now]
    if rule.kind is bool:
        return [not now]
    if rule.words:
        return [word for word in rule.words if word != now]
    if now is None:
        return []
    return [now + 1] if rule.kind is int else [0.9 * now, 1.1 * now]


def behaviour(config):
    """What a block of this config does with given weights, gates open and shut, and learns."""
    results = []
    for bias in (-2.0, 0.0, 2.0):
        torch.manual_seed(0)
        block = shaken(CoordCBAM(16, config), 1.0).train()
        block.monitor = True
        with torch.no_grad():
            for last in (block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head):
                last.bias.add_(bias)
            if "r_ema" in block._buffers:
                block.r_ema.fill_(0.1)
        x = torch.randn(2, 16, 5, 4)
        results += [block(x), block.eval()(x)]
    return torch.cat([r.flatten() for r in results])


@pytest.mark.filterwarnings("ignore::coordcbam.UnreachableRescueWarning")
@pytest.mark.parametrize("name", IDLE_CASES)
def test_an_idle_option_changes_nothing(name):
    config = IDLE_CASES[name]
    idle = certify(config).idle
    assert all(idle.values())
    rules = {rule.flag: (part, rule) for part, rule in all_rules()}
    want, tried = behaviour(config), 0
    for flag in idle:
        part, rule = rules[flag]
        for value in others(rule, getattr(getattr(config, part), rule.name)):
            try:
                changed = config.replace(**{flag: value})
            except OptionValueError:
                continue
            if flag in ("learnable_alpha", "ca_fusion_router_hidden"):
                continue  # adds or resizes parameters, so the drawn weights differ
            torch.testing.assert_close(behaviour(changed), want, msg=f"{flag}={value} acts")
            tried += 1
    assert tried or not idle


def test_it_is_plain_data_and_reads_well():
    sure = certify(STEP3)
    assert dataclasses.asdict(sure)["rescue_can_fire"] is True
    assert "gain in [0.567, 1.870]" in str(sure)
    assert "the rescue can fire for suppression (r_min 0.783) and cannot fire falsely" in str(sure)
    assert str(certify(STEP2)).splitlines()[1].startswith("the rescue cannot fire for suppression")
    assert "no rescue" in str(certify(BlockConfig.step1()))
    with pytest.raises(OptionTypeError, match="config=3: expected a BlockConfig"):
        certify(3)


def test_notes_say_why():
    (line,) = [note for note in certify(STEP2).notes if "cannot fire" in note]
    assert "every gain is at least 0.567, r_min is 0.45" in line
    assert "false alarm" in line
    assert not [note for note in certify(STEP3).notes if "cannot fire" in note]
    (line,) = [note for note in certify(STEP3.replace(r_min=0.5)).notes if "cannot fire" in note]
    assert "false alarm" not in line
    assert any("measured and nothing acts" in n for n in certify(IDLE_CASES["watch"]).notes)


@pytest.mark.parametrize(
    ("config", "idle", "acts"),
    [
        (STEP2, "alpha_eff_min", "min_rescue_ratio"),
        (STEP2.replace(rescue_mode="alpha_floor"), "min_rescue_ratio", "alpha_eff_min"),
        (STEP3.replace(ca_fusion="sum"), "ca_fusion_router_hidden", "r_min"),
        (STEP3, "coord_head_init_std", "ca_fusion_router_hidden"),
        (LOG, "coord_beta", "beta_ca"),
        (STEP3.replace(rescue_mode="watch", r_min=0.5), "r_min", "coord_beta"),
    ],
)
def test_which_options_are_idle(config, idle, acts):
    found = certify(config).idle
    assert idle in found
    assert acts not in found
