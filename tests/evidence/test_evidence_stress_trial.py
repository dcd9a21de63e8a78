"""One seed is one problem, whatever the arm; and what a trial measures of it."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from _stress import TINY, stack, without_seconds
from torch import nn

from coordcbam import blocks
from evidence.stress.arms import ARMS
from evidence.stress.network import Probe, Stack
from evidence.stress.run import run
from evidence.stress.train import Settings, digits, trial


def test_all_arms_of_a_seed_start_from_one_backbone():
    def backbone(name, seed):
        state = stack(name, seed).state_dict()
        return {key: value for key, value in state.items() if not key.startswith("blocks.")}

    first = backbone("none", 3)
    assert len(first) == 2 * (TINY.depth + 2)
    for name in ARMS:
        state = backbone(name, 3)
        assert state.keys() == first.keys()
        assert all(torch.equal(state[key], first[key]) for key in first), name
    # And blocks draw from a stream of their own, whatever the backbone has drawn.
    short, long = stack("step 1", 3), stack("step 1", 3, dataclasses.replace(TINY, depth=3))
    assert torch.equal(short.blocks[0].ca.fc1.weight, long.blocks[0].ca.fc1.weight)
    other = backbone("none", 4)
    assert not torch.equal(other["stem.0.weight"], first["stem.0.weight"])


def test_all_arms_of_a_seed_see_the_same_batches(seen):
    for name in ARMS:
        trial(name, 5, TINY)
    trial("none", 6, TINY)
    *same, other = [torch.stack(net.given) for net in seen]
    assert same[0].shape == (TINY.steps, TINY.batch, 1, 8, 8)
    assert all(torch.equal(given, same[0]) for given in same)
    assert not torch.equal(other, same[0])


@pytest.mark.parametrize("name", ["step 3", "closed step 3, rescued", "guarded cbam"])
def test_an_average_moves_once_a_step(seen, name):
    trial(name, 0, dataclasses.replace(TINY, steps=3))
    assert [int(block.updates) for _, block in blocks(seen[0])] == [3, 3]


def test_accuracy_is_that_of_the_evaluated_stack_on_the_test_digits(seen):
    settings = Settings(depth=1, channels=8, steps=40, batch=32)
    one = trial("timm coord", 0, settings)  # its batch norm makes eval another function
    _, _, x, y = digits(settings.test_size)
    right = [(seen[0].train(mode)(x).argmax(dim=1) == y).sum().item() for mode in (False, True)]
    assert one.accuracy == pytest.approx(right[0] / len(y))
    assert right[0] != right[1]


def test_no_digit_is_in_both_halves():
    x, y, x_test, y_test = digits(Settings.test_size)
    assert (len(x), len(x_test), len(x) + len(x_test)) == (1347, 450, 1797)
    assert (x.mean().item(), x.std().item()) == pytest.approx((0.0, 1.0), abs=1e-5)
    train_set = {picture.numpy().tobytes() for picture in x}
    assert not any(picture.numpy().tobytes() in train_set for picture in x_test)
    shares = [torch.bincount(labels, minlength=10) / len(labels) for labels in (y, y_test)]
    torch.testing.assert_close(*shares, atol=0.01, rtol=0.0)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_probe_finds_known_gains(factor):
    net = Stack(lambda _channels: Times(factor), channels=4, depth=3, seed=0)
    for conv in (net.stem[0], *net.convs):  # a chain of identities, so only blocks change the size
        nn.init.dirac_(conv.weight)
    x = torch.rand(2, 1, 5, 5) + 0.1
    with Probe(net) as probe:
        F.cross_entropy(net(x), torch.tensor([1, 2])).backward()
    assert probe.log_stack_gain == pytest.approx(3 * math.log(factor), abs=1e-5)
    # The stem fills one of four channels; a ReLU lets no gradient through where it is 0.
    share = _gradient_share(net, x)
    assert probe.gradient_gain == pytest.approx(factor**3 * share, rel=1e-4)
    assert not any(module._forward_hooks for module in net.modules())


def _gradient_share(net, x):
    """Norm of the head's gradient on the live channel, over that on all."""
    logits = net(x)
    labels = F.one_hot(torch.tensor([1, 2]), 10)
    gradient = (logits.softmax(dim=1) - labels) @ net.head.weight
    return (gradient[:, 0].norm() / gradient.norm()).item()


def test_a_trial_is_the_same_twice_and_another_with_another_seed():
    one, two = (without_seconds(trial("step 3", 1, TINY)) for _ in range(2))
    assert one == two
    assert one.weights != trial("step 3", 2, TINY).weights


def test_training_lowers_the_loss_and_the_test_digits_are_scored():
    one = trial("none", 0, Settings(depth=1, steps=250))
    assert one.loss < 0.5 * math.log(10)  # that of a stack which knows nothing
    assert one.accuracy > 0.5


@pytest.mark.parametrize(
    ("name", "fired"),
    [
        ("none", None),
        ("step 2", None),
        ("step 3", 0.0),
        ("step 3, watched", 0.0),
        ("closed step 3, watched", 0.0),
        ("guarded cbam", 1.0),
        ("closed step 3, rescued", 0.5),  # its average moves after the first of two steps
    ],
)
def test_steps_in_which_a_rescue_acts_are_counted(name, fired):
    assert trial(name, 0, TINY).fired == fired


def test_equal_weights_have_equal_digests_whatever_is_measured():
    idle, watched = trial("step 3", 0, TINY), trial("step 3, watched", 0, TINY)
    assert (idle.weights, idle.accuracy) == (watched.weights, watched.accuracy)
    assert trial("guarded cbam", 0, TINY).weights != trial("timm cbam", 0, TINY).weights


@pytest.mark.long
def test_trials_do_not_depend_on_the_processes():
    names = ["none", "guarded cbam"]
    found = run(names, 2, TINY, jobs=2)
    here = [trial(name, seed, TINY) for seed in range(2) for name in names]
    assert list(map(without_seconds, found)) == list(map(without_seconds, here))
    assert all(one.cpu_seconds > 0 for one in found)
