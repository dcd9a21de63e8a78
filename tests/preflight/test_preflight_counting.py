"""What blocks cost, counted on paper; a training's model is as before."""

import pytest
import torch
from torch import nn

import coordcbam as cc
from _support.known_blocks import Pointwise
from coordcbam._support.errors import UsageError
from coordcbam.bench.peers import kernel_kept
from coordcbam.preflight import cost

MODEL = 2 * 64 * (3 * 4 + 4 * 6 + 6 * 2)


def test_known_operations(model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    cc.insert_(model, ["0", "3"], inputs=batches[0], block=Pointwise)
    assert cost(model, batches[0]) == {
        "parameters": 4 * 4 + 6 * 6,
        "parameters_model": 3 * 4 + 4 * 6 + 6 * 2,
        "flops": 2 * 64 * (4 * 4 + 6 * 6),
        "flops_model": MODEL,
        "imgsz": 8,
    }


def test_our_block_in_whatever_kernel(model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    cc.insert_(model, "3", inputs=batches[0])
    found = cost(model, batches[0])
    block = model[3].ccattn
    assert found["parameters"] == sum(p.numel() for p in block.parameters())
    assert found["flops_model"] == MODEL
    # Whatever kernel is in use, what is counted are PyTorch's own operations.
    counts = []
    for kernel in (name for name, of in cc.kernels.KERNELS.items() if of.missing() is None):
        with kernel_kept():
            cc.kernels.use(kernel)
            counts.append(cost(model, batches[0])["flops"])
    assert set(counts) == {found["flops"]}
    assert found["flops"] > 0


def test_a_guard_counts_for_itself(batches: list[torch.Tensor]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), Pointwise(4))
    cc.guard_(model, "1")
    found = cost(model, batches[0])
    assert (found["flops"], found["parameters"]) == (0, 0)
    assert found["flops_model"] == 2 * 64 * (3 * 4 + 4 * 4)


def test_a_training_goes_on_as_before(model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    cc.insert_(model, "3", inputs=batches[0], config=cc.BlockConfig.step2())
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    dice = torch.get_rng_state()
    cost(model, (batches[0],))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), dice)
    assert not any(block.bypassed for _, block in cc.blocks(model))


def test_what_is_no_model() -> None:
    with pytest.raises(UsageError, match="model=3"):
        cost(3, None)  # type: ignore[arg-type]
