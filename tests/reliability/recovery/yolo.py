"""The jobs that are killed: a YOLO in training, and the same resumed.

Each writes to ``diary.jsonl`` in its folder what the blocks know when it begins and when it saves.
"""

import functools
import io
import json
from pathlib import Path
from typing import Any

import torch
from recovery.killing import Clock

import coordcbam as cc

EPOCHS, STEPS = 3, 2  # of 16 pictures in batches of 8
PIECE = 1 << 20  # bytes in one write of a checkpoint
SETTINGS: dict[str, Any] = {
    "imgsz": 64,
    "batch": 8,
    "nbs": 8,  # a step of the optimizer every batch
    "epochs": EPOCHS,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 0.5,
    "mosaic": 0.0,
    "device": "cpu",
    "amp": False,
    "workers": 0,
    "plots": False,
    "name": "run",
    "exist_ok": True,
}
STATE = ("r_ema", "updates", "skipped")


def begin(clock: Clock, folder: Path, data: Path) -> None:
    """Insert and train from the start."""
    from coordcbam.hosts.ultralytics import YOLO

    model = YOLO("yolo11n.yaml")
    model.insert("P3,P4")
    for _, block in cc.blocks(model.model):
        block.skipped += 3  # as if broken batches had come before
    keep_diary(folder, model)
    split(clock)
    with clock.region("run"):
        model.train(data=str(data), project=str(folder), **SETTINGS)


def resume(clock: Clock, folder: Path) -> None:
    """Resume from ``last.pt`` and train to the end."""
    from coordcbam.hosts.ultralytics import YOLO

    model = YOLO(folder / "run" / "weights" / "last.pt")
    keep_diary(folder, model)
    model.train(resume=True)


def numbers(network: Any) -> dict[str, dict[str, Any]]:
    """The state of each block's rescue: exact numbers and the types they are kept in."""

    def exact(value: torch.Tensor) -> tuple[str, float]:
        return str(value.dtype), value.item()

    return {
        path: {name: exact(getattr(block, name)) for name in STATE}
        for path, block in cc.blocks(network)
    }


def keep_diary(folder: Path, model: Any) -> None:
    """A line when the training has begun, and a line before each save."""
    from coordcbam.hosts.ultralytics import Monitored

    def note(event: str, epoch: int, trainer: Any) -> None:
        live, averaged = numbers(trainer.model), numbers(trainer.ema.ema)
        line = {"event": event, "epoch": epoch, "live": live, "averaged": averaged}
        with (folder / "diary.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    save = Monitored.save_model

    def save_model(trainer: Any) -> Any:
        note("saves", trainer.epoch, trainer)
        return save(trainer)

    Monitored.save_model = save_model
    model.add_callback(
        "on_train_start", lambda trainer: note("began", trainer.start_epoch, trainer)
    )


def split(clock: Clock) -> None:
    """Put regions around each step, each save, and its writing, which is done in pieces.

    ``write`` while it trains; ``rewrite`` when the optimizer is stripped at the end.
    """
    from ultralytics.nn.tasks import BaseModel

    from coordcbam.hosts.ultralytics import Monitored

    loss, save, dump, write = BaseModel.loss, Monitored.save_model, torch.save, Path.write_bytes

    def in_step(network: Any, *args: Any, **kwargs: Any) -> Any:
        with clock.region("step"):
            return loss(network, *args, **kwargs)

    def in_pieces(region: str, path: Path, data: bytes) -> None:
        with clock.region(region), path.open("wb") as file:
            for start in range(0, len(data), PIECE):
                file.write(data[start : start + PIECE])

    def write_bytes(path: Path, data: bytes) -> int:
        if path.suffix != ".pt":
            return write(path, data)
        in_pieces("write", path, data)
        return len(data)

    @functools.wraps(dump)
    def torch_save(state: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(file, (str, Path)):
            return dump(state, file, *args, **kwargs)
        whole = io.BytesIO()
        dump(state, whole, *args, **kwargs)
        return in_pieces("rewrite", Path(file), whole.getvalue())

    def save_model(trainer: Any) -> Any:
        with clock.region("save"):
            return save(trainer)

    BaseModel.loss, Monitored.save_model = in_step, save_model
    Path.write_bytes, torch.save = write_bytes, torch_save
