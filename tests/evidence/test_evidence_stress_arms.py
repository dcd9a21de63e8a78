"""Arms are what they are declared to be."""

import pytest
import torch
from _stress import TINY, stack
from torch import nn

from coordcbam import Guard, blocks
from evidence.stress.arms import ARMS, parameters

DECLARED = {
    "none": 0,
    "timm cbam": 132,
    "timm coord": 400,
    "SE x2": 280,
    "ReZero coord": 401,
    "control": 1963,
    "step 1": 1960,
    "step 2": 1960,
    "step 3": 1960,
    "guarded cbam": 132,
    "guarded coord": 400,
    "x 0.9": 0,
    "step 2, monitored": 1960,
    "step 3, watched": 1960,
    "closed step 2, monitored": 1960,
    "closed step 3, watched": 1960,
    "closed step 3, rescued": 1960,
}
R_MIN = {
    "guarded cbam": 0.9,
    "guarded coord": 0.9,
    "step 3": None,
    "step 3, watched": None,
    "step 2, monitored": 0.45,
    "closed step 2, monitored": 0.45,
    "closed step 3, watched": None,
    "closed step 3, rescued": 0.8,
}
NEUTRAL = ("none", "ReZero coord", "control", "step 3", "step 3, watched")


def test_every_arm_has_the_parameters_it_is_declared_with():
    assert {name: parameters(arm.build(16)) for name, arm in ARMS.items()} == DECLARED


@pytest.mark.parametrize("channels", [8, 16, 128])
def test_the_control_has_the_parameters_of_step_3(channels):
    ours, control = (parameters(ARMS[name].build(channels)) for name in ("step 3", "control"))
    assert abs(control - ours) <= channels + 1  # half a hidden unit


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_measures_and_acts_as_its_description_says(name):
    measured = [block for _, block in blocks(stack(name)) if block.monitor]
    assert len(measured) == (TINY.depth if name in R_MIN else 0)
    for block in measured:
        rescue = block.rescue if isinstance(block, Guard) else block.config.rescue
        assert rescue.r_min == R_MIN[name]
        assert (rescue.rescue_mode == "watch") == ("watched" in name)


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_block_of_gain_1_starts_as_the_identity_and_can_leave_it(name):
    block, x = ARMS[name].build(8).train(), torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x)
    if name != "none":
        block(x).square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_a_doubled_gate_of_one_half_is_neutral():
    block, x = ARMS["SE x2"].build(8), torch.randn(2, 8, 5, 5)
    nn.init.zeros_(block.se.fc2.weight)
    nn.init.zeros_(block.se.fc2.bias)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", [name for name in ARMS if name.startswith("closed")])
def test_closed_gates_differ_from_open_ones_by_three_biases(name):
    open_name = "step 2" if "step 2" in name else "step 3"
    shut, wide = stack(name).state_dict(), stack(open_name).state_dict()
    differ = {key for key in wide if not torch.equal(shut[key], wide[key])}
    layers = ("ca.fc2", "coord.h_attention_head", "coord.w_attention_head")
    assert differ == {f"blocks.{i}.{layer}.bias" for i in range(TINY.depth) for layer in layers}
    assert all((shut[key] == -3.0).all() for key in differ)
