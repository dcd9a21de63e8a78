"""A training loop of your own with blocks in it, which survives being killed at any instant.

    python examples/plain_loop.py [folder]

Kill it when you like and start it again: it goes on from its last checkpoint and ends, bit for bit,
where it would have ended.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import coordcbam as cc

STEPS, BATCH, SAVE_EVERY, READ_EVERY = 180, 32, 20, 10
TRAINING_SET = 1437  # of the 1,797 digits; the others are for the test


class Training:
    """All that the next step depends on, apart from the pictures: what a checkpoint must hold."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10)),
        )
        cc.insert_(self.model, ["2", "5"], inputs=torch.zeros(1, 1, 8, 8))
        groups = cc.parameter_groups(self.model, weight_decay=0.05)
        self.optimizer = torch.optim.AdamW(groups, lr=3e-3)
        self.step, self.epoch = 0, -1  # the first shuffle begins epoch 0
        self.order = torch.empty(0, dtype=torch.long)  # the pictures that this epoch has left

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint."""
        return {
            "model": self.model.state_dict(),  # with each block's r_ema, updates and skipped
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "place": (self.step, self.epoch, self.order.clone()),  # a slice is saved whole
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step, self.epoch, self.order = state["place"]

    def advance(self, images: Tensor, labels: Tensor) -> None:
        """One step of the optimizer; a broken picture costs that step and no more."""
        if len(self.order) < BATCH:
            self.order = torch.randperm(len(images))
            self.epoch += 1
        batch, self.order = self.order[:BATCH], self.order[BATCH:]
        loss = F.cross_entropy(self.model(images[batch]), labels[batch])
        self.optimizer.zero_grad()
        if loss.isfinite():
            loss.backward()
            self.optimizer.step()
        self.step += 1


def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits, (1797, 1, 8, 8) in [0, 1], and which digit each one is."""
    found = load_digits()
    images = torch.from_numpy(found.images).float() / 16.0
    return images[:, None], torch.from_numpy(found.target)


def save(state: dict[str, Any], path: Path) -> None:
    """To a temporary name, onto the disk, and only then to its own: never half a checkpoint."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def train(folder: Path, images: Tensor, labels: Tensor, steps: int = STEPS) -> Training:
    """Train from the last checkpoint in ``folder``, or from the start if there is none."""
    training, checkpoint = Training(), folder / "checkpoint.pt"
    if checkpoint.exists():
        training.load_state_dict(torch.load(checkpoint))
        print(f"resumed at step {training.step}", *rescue(training.model), sep="\n")
    # After the state is loaded: the monitor begins where the run does.
    first, model = training.step, training.model
    with cc.Monitor(model, folder, every=READ_EVERY, first_step=first) as monitor:
        while training.step < steps:
            training.advance(images, labels)
            monitor.step(epoch=training.epoch)  # moves r_ema, too
            if training.step % SAVE_EVERY == 0 or training.step == steps:
                save(training.state_dict(), checkpoint)
    return training


def rescue(model: nn.Module) -> list[str]:
    """What each block's rescue goes by, one line a block."""
    return [
        f"  block {path}: r_ema {block.r_ema:.4f} after {block.updates} updates, "
        f"{block.skipped} skipped"
        for path, block in cc.blocks(model)
    ]


def main() -> None:
    """Train, and say how well it went."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/plain_loop")
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = digits()
    model = train(folder, images[:TRAINING_SET], labels[:TRAINING_SET]).model.eval()
    with torch.no_grad():
        right = model(images[TRAINING_SET:]).argmax(1) == labels[TRAINING_SET:]
    print(f"{right.float().mean():.1%} of the test digits are right", *rescue(model), sep="\n")
    print(f"records in {folder / 'coordcbam'}: coordcbam report {folder}")


if __name__ == "__main__":
    main()
