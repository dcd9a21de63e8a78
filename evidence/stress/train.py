"""One trial: an arm and a seed in, the trained stack's numbers out."""

import contextlib
import dataclasses
import functools
import hashlib
import time

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from coordcbam import blocks, commit_
from coordcbam.monitor import read
from evidence.stress.arms import ARMS, parameters
from evidence.stress.network import Probe, Stack

LAST = 10  # steps whose losses are averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What all trials of one experiment share."""

    depth: int = 8
    channels: int = 16
    steps: int = 100
    batch: int = 64
    learning_rate: float = 5e-3
    test_size: float = 0.25
    failed_below: float = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What one training came to."""

    arm: str
    seed: int
    accuracy: float  # on the test digits, in eval mode
    loss: float  # mean over the last training steps
    fired: float | None  # share of steps in which a rescue acted; None where nothing is measured
    gradient_gain: float  # at step 0, from the last block's output to the stem's
    log_stack_gain: float  # at step 0
    parameters: int  # of one block
    weights: str  # digest of every trained parameter
    cpu_seconds: float


def trial(name: str, seed: int, settings: Settings) -> Trial:
    """Train one stack and test it.

    The backbone's first weights, the batches and their order depend on ``seed`` alone.
    """
    start = time.process_time()
    net = Stack(
        ARMS[name].build, channels=settings.channels, depth=settings.depth, seed=seed
    ).train()
    probe, losses, fired = _train(net, seed, settings)
    measured = any(block.monitor for _, block in blocks(net))
    return Trial(
        arm=name,
        seed=seed,
        accuracy=_accuracy(net, settings),
        loss=sum(losses[-LAST:]) / len(losses[-LAST:]),
        fired=fired / settings.steps if measured else None,
        gradient_gain=probe.gradient_gain,
        log_stack_gain=probe.log_stack_gain,
        parameters=parameters(net.blocks[0]),
        weights=_digest(net),
        cpu_seconds=time.process_time() - start,
    )


@functools.cache
def digits(test_size: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test pictures (N, 1, 8, 8) and classes; one split, whatever the seed.

    The training pictures have mean 0 and deviation 1.
    """
    found = load_digits()
    split = train_test_split(
        found.images, found.target, test_size=test_size, stratify=found.target, random_state=0
    )
    x, x_test, y, y_test = (torch.from_numpy(array) for array in split)
    mean, std = x.mean(), x.std()
    x, x_test = (((part - mean) / std).float()[:, None] for part in (x, x_test))
    return x, y, x_test, y_test


def batches(seed: int, settings: Settings) -> Tensor:
    """Indices into the training pictures, (steps, batch), drawn with replacement."""
    size = len(digits(settings.test_size)[0])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(size, (settings.steps, settings.batch), generator=generator)


def _train(net: Stack, seed: int, settings: Settings) -> tuple[Probe, list[float], int]:
    """The first step's probe, every step's loss, and the number of steps with a rescue."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, fused=True)
    x, y, _, _ = digits(settings.test_size)
    probe, losses, fired = Probe(net), [], 0
    for chosen in batches(seed, settings):
        optimizer.zero_grad()
        with contextlib.nullcontext() if losses else probe:
            loss = F.cross_entropy(net(x[chosen]), y[chosen])
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
        fired += any(row["alpha_eff"] < row["alpha"] for row in read(net).values())
        commit_(net)
    return probe, losses, fired


@torch.no_grad()
def _accuracy(net: Stack, settings: Settings) -> float:
    _, _, x, y = digits(settings.test_size)
    return (net.eval()(x).argmax(dim=1) == y).double().mean().item()


def _digest(net: nn.Module) -> str:
    found = hashlib.sha256()
    for parameter in net.parameters():
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()[:16]
