"""Same seed, same initial weights: hashes taken from the notebook's own classes (golden/init.json)."""

import hashlib

import pytest
import torch

from _support.golden import INIT, notebook_class
from coordcbam import BlockConfig, CoordCBAM

CASES = [pytest.param(case, id=f"step{case['step']}-{case['seed']}") for case in INIT]


def sha(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def described(block):
    return {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), sha(tensor)]
        for name, tensor in block.state_dict().items()
    }


def adapter(case):
    return notebook_class(case["step"])(case["channels"], **case["kwargs"])


def core(case):
    return CoordCBAM(case["channels"], BlockConfig.from_notebook(case["step"], **case["kwargs"]))


def test_both_steps_are_covered():
    assert [sum(case["step"] == step for case in INIT) for step in (1, 2)] == [12, 12]


@pytest.mark.parametrize("build", [adapter, core])
@pytest.mark.parametrize("case", CASES)
def test_weights_order_and_generator_are_the_notebooks(case, build):
    torch.manual_seed(case["seed"])
    block = build(case)
    after = torch.rand(4)
    assert described(block) == case["state"]
    assert list(block.state_dict()) == list(case["state"])  # a dict's == ignores the order
    assert [name for name, _ in block.named_parameters()] == case["parameters"]
    assert sha(after) == case["rand_after"], "the constructor drew another number of samples"


def test_another_seed_gives_other_weights():
    torch.manual_seed(INIT[0]["seed"] + 1)
    assert described(adapter(INIT[0])) != INIT[0]["state"]


@pytest.mark.parametrize("case", CASES)
def test_strict_loading_both_ways(case):
    """Adapter to core and back; nothing is missing, nothing is more."""
    one, other = adapter(case), core(case)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.normal_()
    other.load_state_dict(one.state_dict(), strict=True)
    assert described(other) == described(one)
    fresh = adapter(case)
    fresh.load_state_dict(other.state_dict(), strict=True)
    assert described(fresh) == described(one)
