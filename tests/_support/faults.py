"""Bad batches, planted in a short training whose end is compared with one that had none."""

import contextlib
import math

import torch
from torch import nn

import coordcbam as cc
from _support.shaken import closed, shaken, step3

NAN, INF = math.nan, math.inf
NOT_FINITE = (NAN, INF, -INF)
HUGE = (1e30, 3e38)  # finite, and their squares are not
PLACES = {
    "element": (1, 2, 3, 4),
    "row": (1, 2, 3),
    "channel": (slice(None), 2),
    "sample": (1,),
    "batch": (),
}
SHAPE = (4, 8, 6, 5)
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "autocast": torch.float32,
}


def planted(value, place, dtype):
    """A batch that is healthy but for one place."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)).to(dtype)
    x[PLACES[place]] = value
    return x


def fits(value, dtype):
    return not math.isfinite(value) or abs(value) <= torch.finfo(dtype).max


def suppressing_step3():
    """A block of step 3 whose rescue acts, so that its average is in every output."""
    return closed(shaken(step3()), -3.0)


def suppressing_guard():
    inner = nn.Conv2d(8, 8, 1)
    nn.init.dirac_(inner.weight)
    inner.weight.data.mul_(0.3)
    return cc.Guard(inner)


def suppressing_step2():
    block = cc.CoordCBAM(8, cc.BlockConfig.from_notebook(r_min=2.0, monitor=True))
    return shaken(block)


SUPPRESSING = {
    "step 2": suppressing_step2,
    "step 3": suppressing_step3,
    "Guard": suppressing_guard,
}


class Training:
    """A block in training that can be set back to the same moment again and again."""

    def __init__(self, name, dtype="float32", *, monitor=True, run=None, warm=2):
        torch.manual_seed(3)
        self.block = SUPPRESSING[name]().to(DTYPES[dtype]).train()
        self.block.monitor = monitor
        self.run = run(self.block) if run else self.block
        self.optimizer = torch.optim.SGD(self.block.parameters(), lr=0.01)
        self.dtype, self.autocasts = DTYPES[dtype], dtype == "autocast"
        self.good = [torch.randn(SHAPE).to(self.dtype) for _ in range(warm + 3)]
        for x in self.good[:warm]:
            self.step(x)
        self.moment = {key: value.clone() for key, value in self.block.state_dict().items()}
        self.warm = warm
        self.of_bad = None  # what the block made of the last bad batch

    def forward(self, x):
        cast = torch.autocast("cpu", dtype=torch.bfloat16)
        with cast if self.autocasts else contextlib.nullcontext():
            return self.run(x)

    def step(self, x, *, skipped=False, commit=True):
        """Forward, backward, a step that may be skipped as a scaler would, and a commit."""
        out = self.forward(x.clone().requires_grad_())
        out.float().square().mean().backward()
        if not skipped:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if commit:
            cc.commit_(self.block)
        return out.detach()

    def rest(self, bad=None, *, commit=True):
        """From the moment on: the bad batch if there is one, then training, then eval."""
        self.block.load_state_dict(self.moment)
        self.block.train()
        if bad is not None:
            self.of_bad = self.step(bad, skipped=True, commit=commit)
        outputs = [self.step(x) for x in self.good[self.warm : -1]]
        self.block.eval()
        with torch.no_grad():
            outputs.append(self.forward(self.good[-1]))
        state = {key: value.clone() for key, value in self.block.state_dict().items()}
        return outputs, state


def difference(one, other, *, counted):
    """What two ends of training differ in, in words; ``counted`` is how many batches one skipped."""
    found = [
        f"output {i}"
        for i, pair in enumerate(zip(one[0], other[0], strict=True))
        if not same(*pair)
    ]
    expected = dict(other[1])
    if "skipped" in expected:
        expected["skipped"] = expected["skipped"] + counted
    return found + [key for key, value in one[1].items() if not same(value, expected[key])]


def same(one, other):
    """Bit for bit, and finite."""
    return bool(one.isfinite().all()) and torch.equal(one, other)
