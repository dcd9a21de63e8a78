"""A YOLO's score on a few unseen images, by its own validator: quiet, and nothing is left."""

import collections
import contextlib
import copy
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from coordcbam._support.errors import UsageError, said, shown
from coordcbam._support.rng import fork_rng

IMAGES = 64
PIXELS = 16 * 640 * 640  # of a batch, unless its size is given
# What a validation would write, or would take from the training of the checkpoint.
SETTINGS: dict[str, Any] = {
    "mode": "val",
    "rect": False,
    "plots": False,
    "verbose": False,
    "save_json": False,
    "save_txt": False,
    "val": False,  # else a COCO set is judged by its own tool, from a file
    "cache": False,
    "half": False,
    "workers": 0,
}

LOGGER = logging.getLogger("ultralytics")


class Held:
    """Batches in memory, in the shape of a host's loader; each pass gets fresh dictionaries."""

    def __init__(self, loader: Any, images: int, batch: int | None) -> None:
        dataset, count = loader.dataset, len(loader.dataset)
        taken = [dataset[i * count // min(images, count)] for i in range(min(images, count))]
        batch = batch or max(1, PIXELS // taken[0]["img"][0].numel())
        self.batch_size, self.collate_fn = batch, loader.collate_fn
        self.dataset = range(len(taken))  # whose length the host asks for
        parts = (taken[start : start + batch] for start in range(0, len(taken), batch))
        self._batches = [self.collate_fn(part) for part in parts]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(batch) for batch in self._batches)


class Scoring:
    """Calling it scores a network; ``batches`` are the images as the network gets them.

    The images are spread evenly over the split and are square, so that every score is of the same
    pixels. What is scored is a copy: a validator fuses the layers of what it is given.

    Args:
        model: a YOLO, ours or Ultralytics' own.
        arguments: of its validation: ``data``, ``imgsz``, ``split``, ``batch``, ``device``...
        images: how many to score with, 1 or more; fewer where the split has fewer.
        datasets: the host's module of data sets, which would write a cache of the labels.

    Raises:
        UsageError: data that the host cannot read, or no images.
    """

    _held: Any = None  # until the first validation has asked for its loader

    def __init__(
        self, model: Any, arguments: Mapping[str, Any], *, images: int = IMAGES, datasets: Any
    ) -> None:
        if isinstance(images, bool) or not isinstance(images, int) or images < 1:
            raise UsageError(f"images={shown(images)}: expected an integer of 1 or more")
        device = next(model.model.parameters()).device
        given = {**model.overrides, "device": str(device), **arguments, **SETTINGS}
        self._arguments = {key: given[key] for key in given if key not in {"project", "name"}}
        self._validator = model._smart_load("validator")
        self._datasets, self._images, self._batch = datasets, images, arguments.get("batch")
        try:
            found, validator = self._validated(model.model)
        except Exception as error:  # a host has errors of its own
            raise UsageError(
                f"data={given.get('data')}: cannot be validated: {said(error)}"
            ) from None
        self.name: str = score_name(found)
        self.device: torch.device = validator.device
        self.images = len(self._held.dataset)
        self.imgsz: Any = validator.args.imgsz
        self.batches: list[Tensor] = [validator.preprocess(each)["img"] for each in self._held]

    def some(self, count: int) -> Tensor:
        """So many of the images, or all, spread evenly over them, (B, C, H, W)."""
        images = torch.cat(self.batches)
        count = min(count, len(images))
        return images[[i * len(images) // count for i in range(count)]]

    def __call__(self, network: nn.Module) -> float:
        """The score of this network; higher is better."""
        return float(self._validated(network)[0][self.name])

    def _validated(self, network: nn.Module) -> tuple[Mapping[str, Any], Any]:
        """What the host's validator found, and the validator."""
        with _quiet(self._datasets, network) as folder:
            # Without callbacks: no logger of the user's is told of a network on trial.
            callbacks: Any = collections.defaultdict(list, {"on_val_start": []})
            validator = self._validator(
                dataloader=self._held, save_dir=folder, args=self._arguments, _callbacks=callbacks
            )
            if self._held is None:
                make = validator.get_dataloader
                validator.get_dataloader = lambda *words: self._hold(make(*words))
            # Newer hosts copy the network themselves.
            made = network if hasattr(validator, "get_model") else copy.deepcopy(network)
            # Fusing would count its operations for a summary.
            with mock.patch.object(made, "info", _nothing, create=True):
                validator(model=made)
            self.threads = torch.get_num_threads()  # as many as the host thinks right
        return validator.metrics.results_dict, validator

    def _hold(self, loader: Any) -> Held:
        if not len(loader.dataset):
            raise UsageError("it has no images")
        held = self._held = Held(loader, self._images, self._batch)
        return held


def predictions(found: Any) -> Any:
    """What a network of the host's returns, without the maps of the neck that it hands on.

    >>> predictions(("boxes", {"scores": 1, "feats": ["P3", "P4", "P5"]}))
    ['boxes', {'scores': 1}]
    """
    if isinstance(found, Mapping):
        return {key: predictions(value) for key, value in found.items() if key != "feats"}
    if isinstance(found, (list, tuple)):
        return [predictions(each) for each in found]
    return found


def _nothing(*_: Any, **__: Any) -> None:
    """No summary of a network."""


def _unsaved(_prefix: str, _path: Path, labels: dict[str, Any], version: str) -> None:
    """What saving a cache of labels does to them, without a file."""
    labels["version"] = version


def score_name(found: Mapping[str, Any]) -> str:
    """The number that a host's results are judged by: of masks and keypoints before boxes.

    >>> score_name({"metrics/mAP50-95(B)": 0.5, "metrics/mAP50-95(M)": 0.4, "fitness": 0.9})
    'metrics/mAP50-95(M)'
    >>> score_name({"metrics/accuracy_top1": 0.5, "fitness": 0.9})
    'fitness'
    """
    return next((name for name in reversed(list(found)) if "mAP50-95" in name), "fitness")


@contextlib.contextmanager
def _quiet(datasets: Any, network: nn.Module) -> Iterator[Path]:
    """No line, no bar, no cache of labels, and the state of the process as it was; a folder."""
    level, threads = LOGGER.level, torch.get_num_threads()
    LOGGER.setLevel(logging.ERROR)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="coordcbam-") as folder,
            mock.patch.object(datasets, "save_dataset_cache_file", _unsaved),
            fork_rng(*network.parameters()),
        ):
            yield Path(folder)
    finally:
        LOGGER.setLevel(level)
        torch.set_num_threads(threads)
