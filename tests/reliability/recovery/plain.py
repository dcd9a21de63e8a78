"""The job that is killed: the plain loop of the examples, with its save in regions."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import torch
from recovery.killing import Clock

EXAMPLE = Path(__file__).parents[3] / "examples" / "plain_loop.py"
STEPS, SAVE_EVERY, READ_EVERY, PICTURES = 30, 6, 3, 320
PIECE = 1 << 14  # bytes in one write of a checkpoint


def loop() -> Any:
    """The example as a module, saving and reading as often as so short a run needs."""
    spec = importlib.util.spec_from_file_location("plain_loop", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SAVE_EVERY, module.READ_EVERY = SAVE_EVERY, READ_EVERY
    return module


def train(clock: Clock, folder: Path) -> None:
    """Train on pictures of which one is broken; leaves the end state in ``end.pt``."""
    example = loop()
    images, labels = (found[:PICTURES] for found in example.digits())
    images[7] = torch.nan  # so that steps are skipped, too
    split(clock, example)
    with clock.region("run"):
        training = example.train(folder, images, labels, STEPS)
    torch.save(training.state_dict(), folder / "end.pt")


def split(clock: Clock, example: Any) -> None:
    """Put regions around each step, each save, and its writing, which is done in pieces."""
    advance, save, dump = example.Training.advance, example.save, torch.save

    def in_step(training: Any, *batch: torch.Tensor) -> None:
        with clock.region("step"):
            advance(training, *batch)

    def in_pieces(state: Any, file: Any) -> None:
        whole = io.BytesIO()
        dump(state, whole)
        with clock.region("write"):
            for start in range(0, whole.tell(), PIECE):
                file.write(whole.getvalue()[start : start + PIECE])
                file.flush()

    def in_save(state: Any, path: Path) -> None:
        torch.save = in_pieces  # torch's own is one call: no kill would find half a file
        with clock.region("save"):
            save(state, path)
        torch.save = dump

    example.Training.advance, example.save = in_step, in_save
