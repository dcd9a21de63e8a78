"""Trainings by two processes, each of which one process on the joined batches has to equal."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import torch
from timm.layers import create_attn
from torch import nn
from torch.utils.checkpoint import checkpoint

import coordcbam as cc
from _support.shaken import shaken

STEPS, ACCIDENT = 3, 1  # steps of a training, and the one in which its accident happens
PROBE = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(99))


class Network(nn.Module):
    """A stem and a body, whose activations may be computed again in the backward pass."""

    def __init__(self, body, reentrant):
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, bias=False)  # no bias: a black image is silence
        self.body, self.reentrant = body, reentrant

    def forward(self, x):
        x = self.stem(x)
        if self.reentrant is None:
            return self.body(x)
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


def inserted(*, shut=0.0, reentrant=None):
    """Two blocks of step 3 whose gates answer to the input, ``shut`` moving them to the closed."""
    body = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 3, bias=False))
    cc.insert_(body, ["0", "1"], inputs=torch.zeros(1, 8, 5, 5))
    for _, block in cc.blocks(body):
        shaken(block, 0.6)
        for last in (block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head):
            nn.init.constant_(last.bias, -shut)
    return Network(body, reentrant)


def guarded():
    """timm's SE and CBAM, guarded where they are and calibrated alike."""
    body = nn.Sequential(create_attn("se", 8), nn.Conv2d(8, 8, 3), create_attn("cbam", 8))
    shaken(body[0]), shaken(body[2].channel)
    model = Network(body, None)
    cc.guard_(model, ["body.0", "body.2"], calibrate=PROBE)
    return model


def unguided():
    """A guard that has seen nothing yet: a first batch is judged by its own value."""
    return Network(cc.Guard(create_attn("eca", 8)), None)


@contextlib.contextmanager
def by_hand(model, optimizer, folder):
    yield lambda: cc.commit_(model)


@contextlib.contextmanager
def by_optimizer(model, optimizer, folder):
    cc.commit_on_step(optimizer, model)
    yield lambda: None


@contextlib.contextmanager
def by_monitor(model, optimizer, folder):
    with cc.Monitor(model, folder, every=1) as monitor:
        yield monitor.step


def not_a_number(x):
    x[0, 0, 0, 0] = math.nan
    return x


def ddp(*, broadcast=False, search=True):
    """DDP's options; the defaults are those of Ultralytics."""
    return {"broadcast_buffers": broadcast, "find_unused_parameters": search}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """How two processes train, and how many updates and skipped steps are right."""

    sizes: tuple = ((4,), (4,))  # of each rank's micro-batches
    hurt: tuple = ()  # ranks that have an accident, with their last micro-batch
    accident: Callable = torch.zeros_like
    make: Callable = inserted
    ddp: dict | None = dataclasses.field(default_factory=ddp)
    closes: Callable = by_hand
    updates: int = STEPS
    skipped: int = 0
    passes: int = 1  # how often each micro-batch is tallied
    acts: bool = False  # whether the rescue does, in every block
    joined: bool = True  # whether the one process has one batch, or all the micro-batches

    def batches(self, step, rank):
        """A rank's micro-batches; each rank has other loud channels."""
        draw = torch.Generator().manual_seed(10 * step + rank)
        loud = torch.tensor([4.0, 0.2, 1.0, 0.5]).roll(2 * rank).view(1, 4, 1, 1)
        found = [loud * torch.randn(n, 4, 9, 9, generator=draw) for n in self.sizes[rank]]
        if step == ACCIDENT and rank in self.hurt:
            found[-1] = self.accident(found[-1])
        return found


def lost(**words):
    """A step of a training that has to be skipped as a whole."""
    return Scenario(**{"accident": not_a_number, "updates": STEPS - 1, "skipped": 1, **words})


UNEQUAL = ((1, 2, 3, 2), (4, 1, 1, 1))
SHUT = {"make": lambda: inserted(shut=2.0), "acts": True}
SCENARIOS = {
    "equal batches": Scenario(),
    "uneven batches": Scenario(sizes=((5,), (1,))),
    "one rank loud": Scenario(hurt=(1,), accident=lambda x: 30.0 * x),
    "one rank faint": Scenario(hurt=(0,), accident=lambda x: 1e-5 * x),
    "one rank black": Scenario(hurt=(1,)),
    "both ranks black": lost(hurt=(0, 1), accident=torch.zeros_like),
    "one rank empty": Scenario(hurt=(1,), accident=lambda x: x[:0]),
    "NaN on rank 0": lost(hurt=(0,)),
    "NaN on rank 1": lost(hurt=(1,)),
    "NaN on both ranks": lost(hurt=(0, 1)),
    "overflow on rank 1": lost(hurt=(1,), accident=lambda x: 1e30 * x),
    "accumulation": Scenario(sizes=UNEQUAL),
    "accumulation, a micro-batch black": Scenario(sizes=UNEQUAL, hurt=(0,)),
    # A batch that is not finite tells nothing; the other micro-batches of the step still do.
    "accumulation, NaN in a micro-batch": lost(
        sizes=UNEQUAL, hurt=(0,), updates=STEPS, joined=False
    ),
    "accumulation, rank 1 lost": lost(sizes=((1, 2), (3,)), hurt=(1,)),
    "more micro-batches on rank 0": Scenario(sizes=((2, 2, 2), (3,))),
    "no forward on rank 0": Scenario(sizes=((), (4,)), ddp=None),
    "no forward on rank 1": Scenario(sizes=((4,), ()), ddp=None),
    "the rescue acts": Scenario(**SHUT),
    "the rescue acts, NaN on rank 0": lost(hurt=(0,), **SHUT),
    "buffers broadcast": Scenario(sizes=UNEQUAL, ddp=ddp(broadcast=True)),
    "buffers broadcast, no search": Scenario(sizes=UNEQUAL, ddp=ddp(broadcast=True, search=False)),
    "no search": Scenario(sizes=UNEQUAL, ddp=ddp(search=False)),
    "guards, calibrated": Scenario(make=guarded, updates=STEPS + 1, acts=True),
    "a guard, not calibrated": Scenario(make=unguided, ddp=None, acts=True),
    "checkpointed": Scenario(
        **{**SHUT, "make": lambda: inserted(shut=2.0, reentrant=False), "passes": 2}
    ),
    "checkpointed, reentrant": Scenario(
        **{**SHUT, "make": lambda: inserted(shut=2.0, reentrant=True)}, ddp=ddp(search=False)
    ),
    "committed by the monitor": Scenario(closes=by_monitor),
    "committed by the monitor, NaN on rank 1": lost(closes=by_monitor, hurt=(1,)),
    "committed by the optimizer": Scenario(sizes=UNEQUAL, closes=by_optimizer),
}
