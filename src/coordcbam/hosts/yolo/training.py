"""What our trainers add to Ultralytics': the monitor, and checkpoints that survive a kill."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordcbam.hosts.yolo.freezing import hold, hold_statistics, spared
from coordcbam.hosts.yolo.saving import aside, empty_aside
from coordcbam.hosts.yolo.watching import (
    CALLBACKS,
    fit_epoch_end,
    is_main,
    start,
    teardown,
    unwrapped,
)
from coordcbam.insert import copy_monitor_state_
from coordcbam.monitor import Monitor
from coordcbam.monitor.loggers import Loggers

LOGGER = logging.getLogger("ultralytics")

_Trainer: Any = Any if TYPE_CHECKING else object  # whatever it is put before


class NothingToTrainError(Exception):
    """A run that is resumed has trained its last epoch, and was killed before its end."""


class Monitoring(_Trainer):
    """What our trainers add to a trainer of Ultralytics': the monitor, and safety from kills."""

    callbacks: dict[str, list[Callable[[Any], None]]]
    last: Path
    _frozen: Any = None
    coordcbam_monitor: Monitor | None = None
    coordcbam_loggers: Loggers | None = None
    coordcbam_epoch_ended = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for event, function in CALLBACKS.items():
            # First in line: loggers that run later in the same event find our columns. Once: a
            # process that another one spawned is given that one's callbacks.
            if function not in self.callbacks[event]:
                self.callbacks[event].insert(0, function)

    def set_model_attributes(self) -> None:
        """Ultralytics' own; ``freeze`` names layers, whose new blocks are to learn."""
        super().set_model_attributes()
        self._frozen = self.args.freeze
        self.args.freeze = spared(unwrapped(self.model), self._frozen)

    def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Ultralytics' own, once the layers are frozen."""
        self.args.freeze = self._frozen
        hold(unwrapped(self.model), self._frozen)
        return super().build_optimizer(*args, **kwargs)

    def _model_train(self) -> None:
        super()._model_train()
        hold_statistics(unwrapped(self.model), self._frozen)

    def validate(self) -> Any:
        """Ultralytics' own, of weights that are averaged and blocks that are not."""
        _copy_to_average(self)
        return super().validate()

    def save_model(self) -> Any:
        """Ultralytics' own, after the epoch's record; a kill leaves old files or new ones."""
        _copy_to_average(self)
        # Before the checkpoint: the epoch after it is the first that a resumed run repeats.
        fit_epoch_end(self)
        with aside(self):
            return super().save_model()

    def final_eval(self) -> None:
        """Ultralytics' own, of a copy of ``last.pt``: a run can be resumed until it is closed."""
        last = self.last
        if is_main() and last.exists():
            self.last = empty_aside(self) / last.name
            shutil.copyfile(last, self.last)
        super().final_eval()
        self.last = last

    def resume_training(self, ckpt: Any) -> None:
        """Ultralytics' own, which refuses a run that has trained its last epoch."""
        if self.resume and ckpt is not None and ckpt["epoch"] + 1 == self.epochs:
            raise NothingToTrainError
        super().resume_training(ckpt)

    def _do_train(self, *args: Any) -> None:
        try:
            self._train_or_finish(*args)
        except BaseException:
            teardown(self)  # which Ultralytics does not call here before 8.4
            raise

    def _train_or_finish(self, *args: Any) -> None:
        try:
            super()._do_train(*args)
        except NothingToTrainError:
            LOGGER.info("every epoch is trained: what is left is the final evaluation")
            self.start_epoch, self.epoch = self.epochs, self.epochs - 1
            start(self)
            self.final_eval()
            if is_main():
                if self.args.plots:
                    self.plot_metrics()
                self.run_callbacks("on_train_end")


def _copy_to_average(trainer: Any) -> None:
    """Give the averaged network the blocks' live state; a notebook's moves between steps, too."""
    if trainer.ema:
        copy_monitor_state_(trainer.model, trainer.ema.ema)
