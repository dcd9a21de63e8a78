"""Lightning with blocks that are watched: one callback, for either of its two packages.

Lightning trains the module it is given and saves its ``state_dict``, so blocks that were inserted
stay in, and their averages and counters go into every checkpoint: there is nothing to patch.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim.swa_utils import AveragedModel

from coordcbam._support.errors import MissingExtraError, said
from coordcbam.hosts.watched import PREFIX, check_ran, columns, counted, told
from coordcbam.insert import copy_monitor_state_, scalars
from coordcbam.monitor import Monitor, read
from coordcbam.monitor.loggers import Comet, Loggers, MLflow, TensorBoard, WandB, gates

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
# What else than numbers goes to each of its loggers, by the logger's class.
_BACK_ENDS: dict[str, Callable[[Any], Any]] = {
    "TensorBoardLogger": lambda logger: TensorBoard(logger.experiment),
    "WandbLogger": lambda logger: WandB(logger.experiment, axis="trainer/global_step"),
    "MLFlowLogger": lambda logger: MLflow(logger.run_id, tracking_uri=logger._tracking_uri),
    "CometLogger": lambda logger: Comet(logger.experiment),
}


def _package() -> Any:
    """The Lightning in use: the one that is loaded, else the first that is installed."""
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return importlib.import_module(name)
    raise MissingExtraError(
        "CoordCBAMCallback needs 'lightning': pip install \"coordcbam[lightning]\""
    )


if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = _package().Callback


class CoordCBAMCallback(Callback):
    """A :class:`coordcbam.Monitor` of the module that a Lightning trainer trains.

    Closes a step after each optimizer step, however many batches it accumulates, and records the
    epoch's ``callback_metrics`` but our own. ``r_out_pre``, ``r_ema`` and ``alpha_eff`` of each
    block go to the trainer's loggers at every reading, and into ``callback_metrics`` at the end of
    an epoch, as ``coordcbam/<block>/<name>``. Histograms of the gates go to them once an epoch, and
    the pictures of the run's folder at the end. An exception has the run recorded as failed.

    It has no state: what a resumed run needs is in the module's ``state_dict``. Weights that a
    callback of Lightning averages get the blocks' live averages and counters. No optimizer is
    changed, but there is a warning where one decays the blocks' own scalars.

    Args:
        every: optimizer steps between two readings, 1 or more.
        out_dir: the run's folder; the default is the trainer's ``log_dir``. A resumed run that is
            given the folder of the first continues its records.
        probe: what to call the module with to see the gates, in eval mode: a tensor, or a tuple of
            arguments; the default is its ``example_input_array``. Without either, and where a
            process does not hold the whole module, there are no histograms.

    Raises:
        UsageError: when training starts, a module without blocks, or a wrong ``every``.
        LostBlocksError: at the end of an epoch, a block that never ran.

    >>> callback = CoordCBAMCallback(every=50)
    >>> callback.monitor is None  # until training starts
    True
    """

    def __init__(
        self, every: int = 10, out_dir: str | Path | None = None, *, probe: Any = None
    ) -> None:
        self.every = every
        self.out_dir = out_dir
        self.probe = probe
        self._loggers = Loggers()
        self.monitor: Monitor | None = None
        self._closed_steps = 0
        self._stale: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch, from the step at which a checkpoint was restored."""
        framework = _package()
        log_dir = trainer.log_dir  # asks all processes
        self.monitor = Monitor(
            pl_module,
            log_dir if self.out_dir is None else self.out_dir,
            every=self.every,
            first_step=trainer.global_step,
            host="lightning",
            command=f"fit {type(pl_module).__name__}",
            versions={"lightning": framework.__version__},
            cost=counted(pl_module, lambda: self._example(pl_module)),
        )
        self._closed_steps = trainer.global_step
        self._loggers = _adapted(trainer, framework)
        decayed = _decayed(trainer.optimizers, pl_module)
        if decayed:
            framework.utilities.rank_zero_warn(
                f"weight decay pulls {decayed} learnable scalars of the blocks: build the "
                "optimizer of coordcbam.parameter_groups(module, weight_decay)"
            )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Note the metrics that are left of earlier epochs."""
        self._stale = dict(trainer.callback_metrics)

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Close a step for each optimizer step of this batch: none while gradients accumulate."""
        if self.monitor is None:
            return
        while self._closed_steps < trainer.global_step:
            self._closed_steps += 1
            readings = self.monitor.step(epoch=trainer.current_epoch)
            if readings is not None:
                for logger in trainer.loggers:
                    logger.log_metrics(columns(readings), step=self._closed_steps)
        _copy_to_averages(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The epoch's metrics, before a checkpoint of this epoch is written."""
        if self.monitor is None:
            return
        readings = read(pl_module)
        check_ran(readings)
        self.monitor.metrics(trainer.current_epoch, self._new_metrics(trainer))
        pl_module.log_dict(columns(readings), logger=False, sync_dist=True)
        example = self._example(pl_module)
        if example is not None:
            self._loggers.histograms(lambda: gates(pl_module, example), trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Close the records and build the report, if its packages are there."""
        monitor, self.monitor = self.monitor, None
        if monitor is None:
            return
        monitor.close(result=_metrics(trainer.callback_metrics))
        self._loggers.pictures(monitor.folder, trainer.global_step)
        self._loggers.close()
        if trainer.is_global_zero:
            _package().utilities.rank_zero_info(told(monitor.folder))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Close the records of a run that stopped early."""
        monitor, self.monitor = self.monitor, None
        if monitor is not None:
            monitor.close(status="failed")
            self._loggers.close("failed")

    def _example(self, module: Any) -> Any:
        """What the module can be called with, if that is known."""
        found = self.probe
        if found is None:
            found = getattr(module, "example_input_array", None)
        return _package().utilities.move_data_to_device(found, module.device)

    def _new_metrics(self, trainer: Any) -> dict[str, float]:
        """What was logged in this epoch; Lightning keeps what earlier ones logged."""
        found = trainer.callback_metrics
        stale = self._stale
        return _metrics({key: value for key, value in found.items() if value is not stale.get(key)})


def _adapted(trainer: Any, framework: Any) -> Loggers:
    """The trainer's loggers that take more than numbers, in the process that sends."""
    alone = trainer.world_size == 1
    whole = alone or isinstance(trainer.strategy, framework.strategies.DDPStrategy)
    if not (trainer.is_global_zero and whole):
        return Loggers()
    found = []
    for logger in trainer.loggers:
        kinds = [kind.__name__ for kind in type(logger).__mro__]
        adapt = next((_BACK_ENDS[kind] for kind in kinds if kind in _BACK_ENDS), None)
        if adapt is None:
            continue
        try:
            found.append(adapt(logger))
        except Exception as error:  # each may be of another release
            framework.utilities.rank_zero_warn(
                f"{kinds[0]} gets no histograms and no pictures: {said(error)}"
            )
    return Loggers(found)


def _metrics(values: dict[str, Any]) -> dict[str, float]:
    """Plain numbers, without ours."""
    return {key: float(value) for key, value in values.items() if not key.startswith(PREFIX)}


def _copy_to_averages(trainer: Any, module: Any) -> None:
    """Give networks that a callback averages the blocks' live state: no average of averages.

    Before or after that callback's own turn: an average of two equal numbers is that number.
    """
    for callback in trainer.callbacks:
        average = getattr(callback, "_average_model", None)
        if isinstance(average, AveragedModel):
            copy_monitor_state_(module, average)


def _decayed(optimizers: list[Any], module: Any) -> int:
    """How many of the blocks' own scalars are in a group that decays."""
    ours = {id(parameter) for parameter in scalars(module)}
    return sum(
        id(parameter) in ours
        for optimizer in optimizers
        for group in optimizer.param_groups
        if group.get("weight_decay")
        for parameter in group["params"]
    )
