"""The callbacks of a training run: are the blocks there, what do they do, what becomes of it."""

import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from coordcbam.hosts.watched import LostBlocksError, check_ran, columns, counted, told
from coordcbam.hosts.yolo import backends, looking
from coordcbam.hosts.yolo.saving import ASIDE, rename
from coordcbam.insert import blocks, lost_places
from coordcbam.monitor import Monitor, read

READINGS_PER_EPOCH = 10

LOGGER = logging.getLogger("ultralytics")


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return int(os.getenv("RANK", "-1")) in {-1, 0}


def start(trainer: Any) -> None:
    """on_train_start: check that every block is there, then begin to watch."""
    network = unwrapped(trainer.model)
    lost = lost_places(network)
    if lost:
        raise LostBlocksError(f"blocks were lost before training: {', '.join(lost)}")
    watched = any(block.monitor for _, block in blocks(network))
    if watched and is_main():
        batches = len(trainer.train_loader)
        trainer.coordcbam_monitor = Monitor(
            network,
            trainer.save_dir,
            every=max(1, batches // READINGS_PER_EPOCH),
            first_step=trainer.start_epoch * batches,
            commits=False,  # the trainer does, once an optimizer step
            host="ultralytics",
            command=f"train model={trainer.args.model} data={trainer.args.data}",
            versions={"ultralytics": version("ultralytics")},
            cost=counted(network, lambda: _image(network, trainer.args.imgsz)),
        )
        looking.before(trainer)
        backends.begin(trainer)


def _image(network: Any, imgsz: Any) -> torch.Tensor:
    """An empty image of the size that is trained with."""
    size = imgsz if isinstance(imgsz, int) else max(imgsz)
    like = next(network.parameters())
    image: torch.Tensor = like.new_zeros(1, network.yaml.get("channels", 3), size, size)
    return image


def batch_end(trainer: Any) -> None:
    """on_train_batch_end: a batch is not yet a step, but readings go by batches."""
    if trainer.coordcbam_monitor is not None:
        trainer.coordcbam_monitor.step(epoch=trainer.epoch)


def epoch_end(trainer: Any) -> None:
    """on_train_epoch_end: columns for results.csv and every logger, before they are written."""
    if trainer.coordcbam_monitor is None:
        return
    trainer.coordcbam_epoch_ended = True
    readings = read(trainer.coordcbam_monitor.model)
    check_ran(readings)
    trainer.lr.update(columns(readings))


def fit_epoch_end(trainer: Any) -> None:
    """on_fit_epoch_end: the epoch's metrics. Fires once more after the run, which is not one."""
    if trainer.coordcbam_monitor is None or not trainer.coordcbam_epoch_ended:
        return
    trainer.coordcbam_epoch_ended = False
    losses = trainer.label_loss_items(trainer.tloss, prefix="train")
    trainer.coordcbam_monitor.metrics(trainer.epoch, {**losses, **_short(trainer.metrics)})
    backends.epoch_end(trainer)


def end(trainer: Any) -> None:
    """on_train_end: close the records, and with them the run."""
    if trainer.coordcbam_monitor is not None:
        looking.after(trainer)
        backends.end(trainer)
        _close(trainer, trainer.coordcbam_monitor)
    stripped = trainer.wdir / ASIDE / trainer.last.name
    if stripped.exists():
        rename(stripped, trainer.last)
        stripped.parent.rmdir()


def _close(trainer: Any, monitor: Monitor) -> None:
    """Finish the records and build the report, if its packages are there."""
    trainer.coordcbam_monitor = None
    monitor.close(result=_short(trainer.metrics or {}))
    LOGGER.info(told(monitor.folder))


def teardown(trainer: Any) -> None:
    """Close the records of a run that stopped early; a finished one is closed already."""
    if trainer.coordcbam_monitor is not None:
        trainer.coordcbam_monitor.close(status="failed")
        trainer.coordcbam_monitor = None


CALLBACKS: dict[str, Callable[[Any], None]] = {
    "on_train_start": start,
    "on_train_batch_end": batch_end,
    "on_train_epoch_end": epoch_end,
    "on_fit_epoch_end": fit_epoch_end,
    "on_train_end": end,
    "teardown": teardown,
}


def _short(metrics: dict[str, Any]) -> dict[str, float]:
    """``metrics/mAP50(B)`` as ``mAP50``: one name whatever the host."""
    return {
        name.removeprefix("metrics/").removesuffix("(B)"): float(value)
        for name, value in metrics.items()
    }


def unwrapped(network: Any) -> Any:
    """The network that is trained, inside DataParallel, a compiled module or a distillation."""
    for inner in ("module", "_orig_mod", "student_model"):
        network = getattr(network, inner, network)
    return network
