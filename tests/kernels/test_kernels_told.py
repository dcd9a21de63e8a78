"""The bookkeeping in C against the rules in PyTorch: what a batch tells, and a step of an average."""

import itertools
import math

import pytest
import torch

from coordcbam import CoordCBAM
from coordcbam.block import energy, target
from coordcbam.kernels import cpu
from coordcbam.kernels.told import commits, tells

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason="no library")

MAX = torch.finfo(torch.float32).max
SAMPLES = {
    "heard": (4.0, 2.0, 1.5),
    "opposed": (4.0, -4.0, 4.0),
    "silent": (0.0, 0.0, 0.0),
    "nearly silent": (1e-36, 1e-36, 1e-36),
    "drowned": (1.0, 1.0, 1001.0),
    "just not drowned": (1.0, 1.0, 1000.0),
    "endless": (math.inf, 1.0, 1.0),
    "unknown": (1.0, math.nan, math.nan),
    "too much": (MAX, 1.0, MAX),
}


def sums_of(names):
    rows = [(*SAMPLES[name], 0.0, 0.0) for name in names]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5).t()


@pytest.mark.parametrize("alpha", [0.0, 0.35, 1.0, math.nan])
@pytest.mark.parametrize("laid_out", [False, True])
def test_every_pair_of_samples_tells_the_same(alpha, laid_out):
    alpha = torch.tensor(alpha)
    for names in [(), *itertools.combinations_with_replacement(SAMPLES, 2)]:
        found = sums_of(names)
        found = found.contiguous() if laid_out else found
        x = torch.empty(len(names), 2, 2, 2)
        tallies = torch.full((4,), 0.5), torch.full((4,), 0.5)
        by_c = energy.listen(found, x, alpha, tallies[0], eager=True)
        by_torch = energy.listen(found, x, alpha, tallies[1])
        same = {"rtol": 1e-12, "atol": 0.0, "equal_nan": True}
        torch.testing.assert_close(by_c.numbers, by_torch.numbers, **same)
        torch.testing.assert_close(*tallies, rtol=1e-6, atol=0.0, equal_nan=True)


def test_without_a_tally_nothing_is_added():
    found, x = sums_of(["heard", "silent"]), torch.empty(2, 2, 2, 2)
    told = energy.listen(found, x, torch.tensor(0.5), eager=True)
    assert told.tally.tolist() == pytest.approx([1 + 0.5 * (0.5 - 1), 1.0, 0.0, 0.0])


class Average:
    def __init__(self, momentum, dtype=torch.float32):
        self.tally, self.r_ema = torch.zeros(4, dtype=dtype), torch.tensor(1.0, dtype=dtype)
        self.updates, self.skipped = torch.tensor(0), torch.tensor(0)
        self.momentum = momentum


@pytest.mark.parametrize("momentum", [0.5, 0.95, 0.999])
def test_forty_steps_of_an_average(momentum):
    # In float32 PyTorch's 1 - m ** n loses its last digits.
    by_c, by_torch = Average(momentum), Average(momentum, torch.float64)
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        count = float(torch.randint(0, 3, (), generator=draw))
        flags = torch.randint(0, 2, (2,), generator=draw).float().tolist()
        kept = count * float(torch.rand((), generator=draw))
        for average in (by_c, by_torch):
            average.tally = torch.tensor([kept, count, *flags], dtype=average.r_ema.dtype)
        target.commit([by_c])
        target._commit_together([by_torch], together=False)
        assert by_c.tally.tolist() == by_torch.tally.tolist() == [0.0] * 4
        torch.testing.assert_close(by_c.r_ema.double(), by_torch.r_ema, rtol=1e-6, atol=0.0)
        assert (by_c.updates, by_c.skipped) == (by_torch.updates, by_torch.skipped)
    assert 0 < by_c.updates < 40
    assert 0 < by_c.skipped < 40


def test_what_c_cannot_read_is_left_to_pytorch():
    block = CoordCBAM(4)
    state = [block.tally, block.r_ema, block.updates, block.skipped]
    assert commits(*state)
    assert not commits(state[0].double(), *state[1:])
    assert not commits(*state[:2], state[2].int(), state[3])
    assert not commits(*(t.to("meta") for t in state))
    found, alpha = torch.zeros(5, 1, dtype=torch.float64), torch.tensor(0.5)
    assert tells(found, alpha, block.tally)
    assert not tells(found.float(), alpha, None)
    assert not tells(found, alpha.double(), None)
    assert not tells(found, alpha, block.tally.double())
