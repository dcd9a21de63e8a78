"""What Ultralytics' own loggers get beside the columns: histograms of gates, and pictures.

They go through the writer, run or experiment that its callbacks have opened: the gates of a few
validation images once an epoch, the pictures at the end.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from coordcbam._support.errors import said
from coordcbam._support.rng import fork_rng
from coordcbam.monitor.loggers import Loggers, gates

IMAGES = 4

LOGGER = logging.getLogger("ultralytics")


def begin(trainer: Any) -> None:
    """When a training starts: find what is open."""
    found = []
    for name, adapted in trainer.coordcbam_back_ends().items():
        try:
            found.append(adapted())
        except Exception as error:  # noqa: PERF203  (a handful, and each may be of another release)
            LOGGER.warning(f"coordcbam: {name} gets no histograms and no pictures: {said(error)}")
    trainer.coordcbam_loggers = Loggers(client for client in found if client is not None)


def epoch_end(trainer: Any) -> None:
    """After an epoch's columns, before its row is closed: the gates of the network in training."""
    network = trainer.coordcbam_monitor.model
    trainer.coordcbam_loggers.histograms(
        lambda: gates(network, probe(trainer.test_loader.dataset)), trainer.epoch + 1
    )


def end(trainer: Any) -> None:
    """After the last epoch: the pictures that are in the records."""
    trainer.coordcbam_loggers.pictures(trainer.coordcbam_monitor.folder, trainer.epoch + 1)
    trainer.coordcbam_loggers.close()


def probe(dataset: Any) -> Tensor:
    """The first validation images of one size, as the network is given them: (B, C, H, W)."""
    with fork_rng():  # of which some transforms draw, also where they change nothing
        images = [dataset[index]["img"] for index in range(min(IMAGES, len(dataset)))]
    batch = torch.stack([image for image in images if image.shape == images[0].shape])
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch
