"""What our model classes add to Ultralytics': inserting, and calls that know of it."""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from coordcbam._support.errors import UsageError
from coordcbam.block import BlockConfig
from coordcbam.hosts.yolo.places import probe, resolve
from coordcbam.insert import Insertion, attached, insert_, remove_, switches

LOGGER = logging.getLogger("ultralytics")
_UNTRAINED: dict[str, Any] = {"epoch": -1, "optimizer": None, "scaler": None, "ema": None}

_Model: Any = Any if TYPE_CHECKING else object  # whatever it is put before


class Inserting(_Model):
    """What goes before a model class of Ultralytics': :meth:`insert`, and calls that know of it.

    Inserted blocks survive train, val, predict, export, save, resume and ``fuse``, are monitored
    while they train, and leave ``<save_dir>/coordcbam/`` with their records and a report.
    """

    ckpt: dict[str, Any]
    _predicted: list[tuple[str, int, bool]] | None = None
    _from_file: frozenset[str] = frozenset()

    def _load(self, *args: Any, **kwargs: Any) -> None:
        super()._load(*args, **kwargs)
        if isinstance(self.model, torch.nn.Module):
            self._from_file = frozenset(attached(self.model))

    def insert(
        self,
        at: str | int | Iterable[str | int] = "P3,P4,P5",
        config: BlockConfig | None = None,
        *,
        monitor: bool = True,
        block: str | type[torch.nn.Module] | None = None,
        options: Mapping[str, Any] | None = None,
        r_min: float | None = None,
    ) -> Insertion:
        """Attach a block behind each named layer and print what was added and kept.

        Args:
            at: levels of the pyramid that feed the head (``"P3,P4,P5"``), ``"neck"`` (all of
                them), ``"backbone"`` (the backbone layers that the neck reads), layer indices
                (``16`` or ``"4,6"``), or a mixture.
            config: the block's options; the default is ``BlockConfig.step3()``.
            monitor: whether the blocks measure the signal while they train.
            block: one that is not ours: ``"timm:cbam"``, ``"ultralytics:CBAM"``,
                ``"package.module:Class"`` or a class, called with a width and ``options``.
            options: keyword arguments of that block.
            r_min: guard that block, so that this share of the signal is kept.

        Returns:
            The insertion; ``print`` it for the table.

        Raises:
            UsageError: a place that this model does not have, a block that cannot be made, or a
                model that is not PyTorch.
        """
        self._check_is_pytorch_model()
        network: Any = self.model
        indices = resolve(network, at)
        done = insert_(
            network,
            [f"model.{index}" for index in indices],
            config=config,
            inputs=probe(network),
            monitor=monitor,
            block=block,
            options=options,
            r_min=r_min,
        )
        # train() starts from the network in memory only while a checkpoint is set; and what this
        # one says of an unfinished training does not fit the network any more.
        self.ckpt = {**(self.ckpt or {}), "model": network, **_UNTRAINED}
        self.predictor = None
        LOGGER.info(str(done))
        return done

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Ultralytics' own, on a predictor that has the network's blocks as they are now."""
        now = [(path, id(block), block.bypassed) for path, block in switches(self)]
        if now != self._predicted:  # a predictor works on its own copy of the network
            self.predictor, self._predicted = None, now
        return super().predict(*args, **kwargs)

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Ultralytics' own; of several data sets, too, each run is one of our trainers'.

        Raises:
            UsageError: ``resume`` of a checkpoint without the blocks that were inserted since.
        """
        if kwargs.get("resume"):
            self._check_resumed()
        if trainer is None and isinstance(kwargs.get("data"), (list, tuple)):
            trainer = self._smart_load("trainer")
        return super().train(trainer, **kwargs)

    def _check_resumed(self) -> None:
        """Raise where a resumed training, which goes on with the file's network, loses blocks."""
        new = sorted(set(attached(self.model)) - self._from_file)
        if new:
            raise UsageError(
                f"resume=True goes on with {self.ckpt_path}, which has no block at "
                f"{', '.join(new)}: train without resume, or resume before you insert"
            )

    def remove(self) -> int:
        """Take the blocks out again; returns how many there were."""
        self._check_is_pytorch_model()
        self.predictor = None
        return remove_(self.model)
