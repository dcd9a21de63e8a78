"""Ultralytics YOLO with attention that stays in: ``YOLO(...).insert(...)``, then train as ever.

The only file that imports ultralytics (AGPL-3.0). Three facts about it shape this file:

* ``train()`` rebuilds the network from ``model.yaml``, so what was inserted is written there, under
  the key ``coordcbam``, and put back whenever a network is built from such a file;
* checkpoints are pickles, so loading one of ours imports coordcbam, which registers this file;
* a plain ``ultralytics.YOLO`` runs the same builders, so it keeps the blocks of our checkpoints.
"""

import functools
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.cfg import CFG_BOOL_KEYS, TASKS, get_cfg, parse_key_value_pair
from ultralytics.engine import trainer as engine
from ultralytics.engine.exporter import Exporter
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER, RANK, ROOT
from ultralytics.utils.checks import check_file
from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS

from coordcbam._support.errors import UsageError, did_you_mean, nearest
from coordcbam.block import BlockConfig, deploy
from coordcbam.hosts.yolo.places import probe, resolve
from coordcbam.hosts.yolo.saving import aside, empty_aside, stripping_aside
from coordcbam.hosts.yolo.watching import CALLBACKS, LostBlocksError, fit_epoch_end, start
from coordcbam.insert import (
    RECIPE_KEY,
    Insertion,
    blocks,
    commit_,
    copy_monitor_state_,
    insert_,
    label,
    rebuild,
    remove_,
    scalars,
)
from coordcbam.monitor import Monitor


class YOLO(ultralytics.YOLO):
    """``ultralytics.YOLO`` with :meth:`insert`; every other call is Ultralytics' own.

    Inserted blocks survive train, val, predict, export, save, resume and ``fuse``, are monitored
    while they train, and leave ``<save_dir>/coordcbam/`` with their records and a report.
    """

    ckpt: dict[str, Any]
    _bypassed: list[bool] | None = None

    def insert(
        self,
        at: str | int | Iterable[str | int] = "P3,P4,P5",
        config: BlockConfig | None = None,
        *,
        monitor: bool = True,
    ) -> Insertion:
        """Attach a block behind each named layer and print what was added and kept.

        Args:
            at: levels of the pyramid that feed the head (``"P3,P4,P5"``), ``"neck"`` (all of
                them), ``"backbone"`` (the backbone layers that the neck reads), layer indices
                (``16`` or ``"4,6"``), or a mixture.
            config: the block's options; the default is ``BlockConfig.step3()``.
            monitor: whether the blocks measure the signal while they train.

        Returns:
            The insertion; ``print`` it for the table.

        Raises:
            UsageError: a place that this model does not have, or a model that is not PyTorch.
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
        )
        # train() starts from the network in memory only while a checkpoint is set.
        if not self.ckpt:
            self.ckpt = {"model": network}
        self.predictor = None
        LOGGER.info(str(done))
        return done

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Ultralytics' own, on a predictor that is as bypassed as the network is now."""
        now = [block.bypassed for _, block in blocks(self)]
        if now != self._bypassed:  # a predictor works on its own copy of the network
            self.predictor, self._bypassed = None, now
        return super().predict(*args, **kwargs)

    def remove(self) -> int:
        """Take the blocks out again; returns how many there were."""
        self._check_is_pytorch_model()
        self.predictor = None
        return remove_(self.model)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Ultralytics' own table, with trainers that monitor the blocks."""
        table: dict[str, dict[str, Any]] = super().task_map
        return {
            task: {**entry, "trainer": TRAINERS.get(entry["trainer"], entry["trainer"])}
            for task, entry in table.items()
        }


class NothingToTrainError(Exception):
    """A run that is resumed has trained its last epoch, and was killed before its end."""


class Monitored(BaseTrainer):
    """What our trainers add to a trainer of Ultralytics': the monitor, and safety from kills."""

    callbacks: dict[str, list[Callable[[Any], None]]]
    last: Path
    coordcbam_monitor: Monitor | None = None
    coordcbam_epoch_ended = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for event, function in CALLBACKS.items():
            # First in line: loggers that run later in the same event find our columns.
            self.callbacks[event].insert(0, function)

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
        if RANK in {-1, 0} and last.exists():
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
            super()._do_train(*args)
        except NothingToTrainError:
            LOGGER.info("every epoch is trained: what is left is the final evaluation")
            self.start_epoch, self.epoch = self.epochs, self.epochs - 1
            start(self)
            self.final_eval()
            if RANK in {-1, 0}:
                if self.args.plots:
                    self.plot_metrics()
                self.run_callbacks("on_train_end")


def _copy_to_average(trainer: Any) -> None:
    """Give the averaged network the blocks' live state; a notebook's moves between steps, too."""
    if trainer.ema:
        copy_monitor_state_(trainer.model, trainer.ema.ema)


def _monitored_trainers() -> dict[type, type]:
    """A monitored twin of each stock trainer, importable by name so that it can be pickled."""
    twins: dict[type, type] = {}
    for entry in ultralytics.YOLO.task_map.fget(None).values():
        base = entry["trainer"]
        name = f"Monitored{base.__name__}"
        doc = f"Ultralytics' {base.__name__}, watching the blocks while it trains."
        twin = type(name, (Monitored, base), {"__module__": __name__, "__doc__": doc})
        globals()[name] = twins[base] = twin
    return twins


def register() -> None:
    """Teach Ultralytics about the blocks; done at import, harmless to repeat.

    Its builders learn the key ``coordcbam``, its trainers to close the blocks' step with the
    optimizer's, to spare the blocks' scalars from decay, and to strip a checkpoint aside, its
    exporter to take the blocks' inference form: all that holds for a plain ``ultralytics.YOLO`` as
    well.
    """
    if getattr(tasks.parse_model, "knows_coordcbam", False):
        return
    build, load = tasks.parse_model, tasks.BaseModel.load
    step, group = BaseTrainer.optimizer_step, BaseTrainer.build_optimizer

    @functools.wraps(build)
    def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        layers, save = build(d, *args, **kwargs)
        for spec in d.get(RECIPE_KEY, ()):
            # Paths are the network's; here is only its list of layers.
            places = [{**p, "path": p["path"].removeprefix("model.")} for p in spec["places"]]
            rebuild(layers, {**spec, "places": places})
        return layers, save

    @functools.wraps(load)
    def checked_load(self: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        source = weights["model"] if isinstance(weights, dict) else weights
        here = {path for path, _ in blocks(self)}
        lost = [label(path) for path, _ in blocks(source) if path not in here]
        if lost:
            raise LostBlocksError(
                f"the weights have coordcbam blocks at {', '.join(lost)}, this network has not: "
                "insert them with coordcbam.hosts.ultralytics.YOLO(...).insert(...), or take them "
                "out of the weights with coordcbam.remove_(model)"
            )
        return load(self, weights, *args, **kwargs)

    @functools.wraps(step)
    def optimizer_step(self: Any) -> None:
        step(self)
        commit_(self.model)
        if self.ema:
            # Not an average of averages, and with the counters, which Ultralytics does not average.
            copy_monitor_state_(self.model, self.ema.ema)

    @functools.wraps(group)
    def build_optimizer(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer = group(self, model, *args, **kwargs)
        _spare(optimizer, scalars(model))
        return optimizer

    parse_model.knows_coordcbam = True  # type: ignore[attr-defined]
    tasks.parse_model = parse_model
    tasks.BaseModel.load = checked_load
    BaseTrainer.optimizer_step = optimizer_step
    BaseTrainer.build_optimizer = build_optimizer
    Exporter.__call__ = _deploying(Exporter.__call__)
    engine.strip_optimizer = stripping_aside(engine.strip_optimizer)


def _deploying(export: Callable[..., Any]) -> Callable[..., Any]:
    """Ultralytics' exporter, made to export the blocks' inference form."""

    @functools.wraps(export)
    def export_deployed(self: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
        # A copy only where there are blocks: a stranger's model may not like it.
        if isinstance(model, torch.nn.Module) and blocks(model):
            model = deploy(model)
        with warnings.catch_warnings():
            # It means that statistics are the map's own, which is what is wanted.
            warnings.filterwarnings("ignore", ".*operator 'instance_norm' is set to train=True.*")
            return export(self, model, *args, **kwargs)

    return export_deployed


def _spare(optimizer: Any, parameters: list[Any]) -> None:
    """Move ``parameters`` from the groups that decay to the norms', which never do."""
    ours = {id(parameter) for parameter in parameters}
    norms = {g["lr"]: g for g in optimizer.param_groups if g.get("param_group") == "bn"}
    for group in optimizer.param_groups:
        if group.get("param_group") in ("weight", "muon"):
            moved = [p for p in group["params"] if id(p) in ours]
            group["params"] = [p for p in group["params"] if id(p) not in ours]
            norms[group["lr"]]["params"] += moved


def prepare(words: Iterable[str]) -> tuple[YOLO, dict[str, Any]]:
    """The model and ``train()`` arguments that ``key=value`` words ask for, all checked.

    Words keep the meaning they have on Ultralytics' own command line: a bare boolean is True, a
    bare task is the task.

    Raises:
        UsageError: an unknown word, a bad value, or a model or data file that does not exist.
    """
    arguments = dict(_parsed(word) for word in words if word != "train")
    if "model" not in arguments:
        raise UsageError("no model: give model=yolo11n.yaml, or a checkpoint model=best.pt")
    resumes = bool(arguments.get("resume"))
    if "data" not in arguments and not resumes:
        raise UsageError("no data: give data=my.yaml, or data=digits for the embedded set")
    try:
        get_cfg(overrides=arguments)
    except (TypeError, ValueError, SyntaxError) as error:
        raise UsageError(str(error).splitlines()[0]) from None
    model = _existing_model(str(arguments.pop("model")))
    if "data" in arguments:
        _check_data(str(arguments["data"]))
    return opened(model, arguments.pop("task", None), to="train"), arguments


def opened(model: str, task: str | None = None, *, to: str) -> YOLO:
    """The PyTorch model of a file.

    Raises:
        UsageError: what Ultralytics cannot read, or what is not PyTorch.
    """
    try:
        made = YOLO(model, task=task)
        made._check_is_pytorch_model()
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{model!r} is no model to {to}: {text}") from None
    return made


def _parsed(word: str) -> tuple[str, Any]:
    if "=" not in word:
        if word in CFG_BOOL_KEYS or word == "resume":
            return word, True
        if word in TASKS:
            return "task", word
        known = [f"{key}=..." for key in DEFAULT_CFG_DICT]
        raise UsageError(f"unknown word {word!r}: expected key=value{did_you_mean(word, known)}")
    try:
        key, value = parse_key_value_pair(word)
    except AssertionError:
        raise UsageError(f"{word!r}: the value is missing") from None
    if key not in DEFAULT_CFG_DICT:
        raise UsageError(f"unknown word {word!r}: nearest are {nearest(key, DEFAULT_CFG_DICT)}")
    return key, value


def _existing_model(name: str) -> str:
    """``name`` if it is a file, a stock model file, or weights that Ultralytics publishes."""
    path = Path(name)
    if path.is_file() or "://" in name:
        return name
    if path.suffix in {".yaml", ".yml"}:
        try:
            tasks.yaml_model_load(path)
        except (FileNotFoundError, ValueError):
            stock = [file.name for file in (ROOT / "cfg" / "models").rglob("*.yaml")]
        else:
            return name
    else:
        stock = [f"{stem}.pt" for stem in GITHUB_ASSETS_STEMS]
        if path.suffix == ".pt" and path.stem in GITHUB_ASSETS_STEMS:
            return name
    raise UsageError(f"no model file {name!r}: nearest are {nearest(path.name, stock)}")


def _check_data(name: str) -> None:
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or path.is_file() or "://" in name:
        return
    if not check_file(name, download=False, hard=False):
        stock = [file.name for file in (ROOT / "cfg" / "datasets").rglob("*.yaml")]
        raise UsageError(f"no data file {name!r}: nearest are {nearest(path.name, stock)}")


TRAINERS = _monitored_trainers()
register()
