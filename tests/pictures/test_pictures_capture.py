"""A model is run and nothing of it changes."""

import copy
import random

import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.pictures.capture import capture
from coordcbam.pictures.gates import gates_of, measured


class Half(nn.Module):
    def __init__(self, channels=4):
        super().__init__()

    def forward(self, x):
        return 0.5 * x


def network(**options):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 1)
    )
    cc.insert_(model, ["1", "3"], inputs=torch.zeros(1, 3, 8, 8), **options)
    return model


def test_each_block_by_its_name_and_each_image():
    model = network(config=cc.BlockConfig.step2())
    images = [torch.rand(1, 3, 8, 12), torch.rand(1, 3, 6, 6)]
    found = capture(model, images)
    assert [list(each) for each in found] == [["1", "3"], ["1", "3"]]
    assert [each["3"].gain.shape for each in found] == [(8, 12), (6, 6)]
    model.eval()
    with torch.no_grad():
        x = model[1](model[0](images[1]))  # the block behind layer 1 has acted
        want = gates_of(model[3].ccattn, model[3].forward(x))
    assert torch.allclose(found[1]["3"].gain, want.gain)


def test_the_model_and_the_random_numbers_are_untouched():
    model = network()
    model.train()
    model[2].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    kept = copy.deepcopy(model)
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    told = [(block.stats.clone(), block.tally.clone()) for _, block in cc.blocks(model)]
    numbers, words = torch.get_rng_state(), random.getstate()
    capture(model, [torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(torch.get_rng_state(), numbers)
    assert random.getstate() == words
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    for (name, now), before in zip(
        model.state_dict().items(), kept.state_dict().values(), strict=True
    ):
        assert torch.equal(now, before), name
    for (_, block), (stats, tally) in zip(cc.blocks(model), told, strict=True):
        assert torch.equal(block.stats.nan_to_num(-1.0), stats.nan_to_num(-1.0))
        assert torch.equal(block.tally, tally)
    assert model[0].weight.grad.eq(1).all()
    assert torch.is_grad_enabled()


class Noisy(nn.Module):
    """Draws a number at each forward, in eval too."""

    def forward(self, x):
        return x + torch.rand(())


def test_a_model_that_draws_numbers_leaves_the_generator_as_it_was():
    model = nn.Sequential(Noisy(), cc.CoordCBAM(3))
    before = torch.get_rng_state()
    capture(model, [torch.ones(1, 3, 4, 4)])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("r_min", [None, 0.2, 0.8])
def test_a_foreign_block_is_measured_guarded_or_not(r_min):
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    cc.insert_(model, "0", inputs=torch.zeros(1, 3, 8, 8), block=Half, r_min=r_min)
    if r_min is not None:
        model[0].ccattn.inner.r_ema.fill_(0.5)
    (found,) = capture(model, [torch.rand(1, 3, 8, 8)])
    assert list(found) == ["0"]
    want = max(0.5, r_min or 0.0)  # a guard keeps r_min at least
    assert torch.allclose(found["0"].gain, torch.full((8, 8), want, dtype=torch.float64))


def test_a_guard_around_a_block_that_stays_where_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Half())
    cc.guard_(model, "1", r_min=0.7, calibrate=torch.rand(2, 3, 8, 8))
    (found,) = capture(model, [torch.rand(1, 3, 8, 8)])
    assert list(found) == ["1"]
    assert found["1"].gain.mean().item() == pytest.approx(0.7, abs=1e-4)
    assert found["1"].note


def test_a_guard_that_wraps_and_a_block_called_by_keyword():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = cc.CoordCBAM(3, cc.BlockConfig.step2())
            self.guard = cc.Guard(Half(), 0.2)
            self.guard.r_ema.fill_(0.5)

        def forward(self, image):
            return self.guard(self.block(x=image))

    model, x = Net(), torch.rand(1, 3, 5, 5)
    (found,) = capture(model, [x])
    assert torch.allclose(found["block"].gain, gates_of(model.block.eval(), x).gain)
    with torch.no_grad():
        y = model.block(x)
        assert torch.allclose(found["guard"].gain, measured(y, 0.5 * y).gain)


def test_the_first_call_counts_of_a_block_that_is_called_twice():
    block = cc.CoordCBAM(3, cc.BlockConfig.step2()).eval()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return self.block(self.block(x) * 3.0)

    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(capture(Twice(), [x])[0]["block"].gain, gates_of(block, x).gain)


def test_a_model_in_half_precision_is_given_half_precision():
    model = nn.Sequential(cc.CoordCBAM(3, cc.BlockConfig.step2()), nn.Conv2d(3, 4, 1)).bfloat16()
    (found,) = capture(model, [torch.rand(1, 3, 8, 8)])
    assert found["0"].gain.dtype == torch.float64
    assert found["0"].gain.isfinite().all()


def test_what_cannot_be_looked_at():
    with pytest.raises(UsageError, match="has no blocks; insert_"):
        capture(nn.Conv2d(3, 4, 1), [])
    with pytest.raises(UsageError, match=r"its block at 1\.0 did not"):
        model = nn.ModuleList([cc.CoordCBAM(3), nn.Sequential(cc.CoordCBAM(3))])
        model.forward = None

        class Unused(nn.Module):
            def __init__(self):
                super().__init__()
                self.add_module("0", model[0])
                self.add_module("1", model[1])

            def forward(self, x):
                return self._modules["0"](x)

        capture(Unused(), [torch.rand(1, 3, 4, 4)])
    with pytest.raises(UsageError, match="no copy of the Sequential can be made"):
        model = nn.Sequential(cc.CoordCBAM(3))
        model.kept = (i for i in range(3))
        capture(model, [])
