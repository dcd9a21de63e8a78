"""Ultralytics YOLO with attention that stays in: ``YOLO(...).insert(...)``, then train as ever.

The only file that imports ultralytics (AGPL-3.0). Three facts about it shape this file:

* ``train()`` rebuilds the network from ``model.yaml``, so what was inserted is written there, under
  the key ``coordcbam``, and put back whenever a network is built from such a file;
* checkpoints are pickles, so loading one of ours imports coordcbam, which registers this file;
* a plain ``ultralytics.YOLO`` runs the same builders, so it keeps the blocks of our checkpoints,
  and knows our row of a model file, ``CoordCBAMLayer``.
"""

import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.cfg import CFG_BOOL_KEYS, TASKS, get_cfg, parse_key_value_pair
from ultralytics.engine import trainer as engine
from ultralytics.engine.exporter import Exporter
from ultralytics.engine.model import Model
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.engine.tuner import Tuner
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER, RANK, ROOT
from ultralytics.utils.callbacks.base import default_callbacks
from ultralytics.utils.checks import check_file
from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS

from coordcbam._support.errors import UsageError, did_you_mean, nearest, shown
from coordcbam.block import BlockConfig
from coordcbam.hosts.yolo import modelfile, patches
from coordcbam.hosts.yolo.pickled import pickled
from coordcbam.hosts.yolo.places import probe, resolve, spared
from coordcbam.hosts.yolo.row import CoordCBAMLayer
from coordcbam.hosts.yolo.rows import ROW
from coordcbam.hosts.yolo.saving import aside, empty_aside, stripping_aside
from coordcbam.hosts.yolo.transfer import Transfer, compare
from coordcbam.hosts.yolo.watching import (
    CALLBACKS,
    LostBlocksError,
    fit_epoch_end,
    start,
    teardown,
)
from coordcbam.insert import (
    Insertion,
    Plan,
    attached,
    copy_monitor_state_,
    insert_,
    remove_,
    switches,
)
from coordcbam.insert.foreign import SOURCES, Foreign
from coordcbam.monitor import Monitor

__all__ = [
    "RTDETR",
    "YOLO",
    "LostBlocksError",
    "Monitored",
    "WithBlocks",
    "YOLOWorld",
    "load_pretrained",
    "open_model",
    "opened",
    "prepare",
    "register",
    "resolve",
    "write_model",
]


class WithBlocks(Model):
    """What our classes add to Ultralytics': :meth:`insert`; every other call is Ultralytics' own.

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
        # train() starts from the network in memory only while a checkpoint is set.
        if not self.ckpt:
            self.ckpt = {"model": network}
        self.predictor = None
        LOGGER.info(str(done))
        return done

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Ultralytics' own, on a predictor that is as bypassed as the network is now."""
        now = [block.bypassed for block in switches(self)]
        if now != self._bypassed:  # a predictor works on its own copy of the network
            self.predictor, self._bypassed = None, now
        return super().predict(*args, **kwargs)

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Ultralytics' own; of several data sets, too, each run is one of our trainers'."""
        if trainer is None and isinstance(kwargs.get("data"), (list, tuple)):
            trainer = self._smart_load("trainer")
        return super().train(trainer, **kwargs)

    def tune(self, *args: Any, **kwargs: Any) -> Any:
        """Ultralytics' own; its runs are processes that get the network, or once a file."""
        if attached(self.model) and "model" not in inspect.signature(Tuner.__init__).parameters:
            with tempfile.TemporaryDirectory(prefix="coordcbam-") as folder:
                file = Path(folder) / f"{Path(str(self.overrides['model'])).stem}.pt"
                self.save(file)
                return super().tune(*args, **{**kwargs, "model": str(file)})
        return super().tune(*args, **kwargs)

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


class RTDETR(WithBlocks, ultralytics.RTDETR):
    """``ultralytics.RTDETR`` with :meth:`insert`."""


class YOLOWorld(WithBlocks, ultralytics.YOLOWorld):
    """``ultralytics.YOLOWorld`` with :meth:`insert`."""


class YOLO(WithBlocks, ultralytics.YOLO):
    """``ultralytics.YOLO`` with :meth:`insert`; of an RT-DETR, World or YOLOE file, that class."""

    def __init__(self, model: Any = "yolo11n.pt", *args: Any, **kwargs: Any) -> None:
        path = Path(model if isinstance(model, (str, Path)) else "")
        if "rtdetr" in path.stem and path.suffix in {".yaml", ".yml"}:  # which YOLO cannot build
            made = RTDETR(model)
            self.__class__, self.__dict__ = type(made), made.__dict__
            return
        super().__init__(model, *args, **kwargs)
        # Ultralytics' own constructor may have made it one of its other classes.
        self.__class__ = TWINS.get(type(self), type(self))


class NothingToTrainError(Exception):
    """A run that is resumed has trained its last epoch, and was killed before its end."""


class Monitored(BaseTrainer):
    """What our trainers add to a trainer of Ultralytics': the monitor, and safety from kills."""

    callbacks: dict[str, list[Callable[[Any], None]]]
    last: Path
    _frozen: Any = None
    coordcbam_monitor: Monitor | None = None
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
        self.args.freeze = spared(self.model, self._frozen)

    def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Ultralytics' own, once the layers are frozen."""
        self.args.freeze = self._frozen
        return super().build_optimizer(*args, **kwargs)

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
            if RANK in {-1, 0}:
                if self.args.plots:
                    self.plot_metrics()
                self.run_callbacks("on_train_end")


def _copy_to_average(trainer: Any) -> None:
    """Give the averaged network the blocks' live state; a notebook's moves between steps, too."""
    if trainer.ema:
        copy_monitor_state_(trainer.model, trainer.ema.ema)


TWINS: dict[type, Any] = {ultralytics.RTDETR: RTDETR, ultralytics.YOLOWorld: YOLOWorld}

if hasattr(ultralytics, "YOLOE"):  # not in its first releases of 8.3

    class YOLOE(WithBlocks, ultralytics.YOLOE):
        """``ultralytics.YOLOE`` with :meth:`insert`."""

    TWINS[ultralytics.YOLOE] = YOLOE


def _monitored_trainers() -> dict[type, type]:
    """A monitored twin of each stock trainer, importable by name so that it can be pickled."""
    twins: dict[type, type] = {}
    tables = [kind.task_map.fget(None) for kind in (ultralytics.YOLO, *TWINS)]
    for base in (entry["trainer"] for table in tables for entry in table.values()):
        name = f"Monitored{base.__name__}"
        doc = f"Ultralytics' {base.__name__}, watching the blocks while it trains."
        twin = type(name, (Monitored, base), {"__module__": __name__, "__doc__": doc})
        globals()[name] = twins[base] = twin
    return twins


def register() -> None:
    """Teach Ultralytics about the blocks; done at import, harmless to repeat.

    Its builders learn the key ``coordcbam`` and the row ``CoordCBAMLayer``; its loading matches
    layers; its trainers close the blocks' step with the optimizer's, let no scalar of theirs decay
    and strip a checkpoint aside; its exporter takes the inference form. All that holds for a plain
    ``ultralytics.YOLO`` as well.
    """
    known = getattr(tasks, ROW, None)
    if known is CoordCBAMLayer:
        return
    if known is not None:
        raise RuntimeError(f"ultralytics.nn.tasks.{ROW} is {known!r}: expected nobody's; remove it")
    setattr(tasks, ROW, CoordCBAMLayer)
    SOURCES["ultralytics"] = _of_ultralytics
    torch.serialization.add_safe_globals(pickled())
    tasks.parse_model = patches.rebuilding(tasks.parse_model)
    tasks.BaseModel.load = patches.aligning(tasks.BaseModel.load)
    BaseTrainer.optimizer_step = patches.committing(BaseTrainer.optimizer_step)
    BaseTrainer.build_optimizer = patches.sparing(BaseTrainer.build_optimizer)
    Exporter.__call__ = patches.deploying(Exporter.__call__)
    engine.strip_optimizer = stripping_aside(engine.strip_optimizer)
    default_callbacks["on_pretrain_routine_start"].append(travel_along)


def travel_along(trainer: Any) -> None:
    """A callback of every trainer that does nothing.

    A process that is spawned to train on another GPU is given the trainer's callbacks, and this one
    brings this file with it, which registers there.
    """


def _of_ultralytics(name: str, channels: int, options: Mapping[str, Any]) -> torch.nn.Module:
    """A block of Ultralytics', such as ``CBAM``, which its own model files cannot name."""
    found = getattr(ultralytics.nn.modules, name, None)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        known = [
            key for key, value in vars(ultralytics.nn.modules).items() if isinstance(value, type)
        ]
        raise UsageError(f"no block 'ultralytics:{name}': nearest are {nearest(name, known)}")
    made: torch.nn.Module = found(channels, **options)
    return made


def write_model(
    model: WithBlocks,
    out: str | Path,
    at: str | int | Iterable[str | int] = "P3,P4,P5",
    block: BlockConfig | Foreign | None = None,
    *,
    monitor: bool = True,
    redirect: bool = True,
) -> Plan:
    """Write ``model`` as a model file with blocks as rows: see :func:`modelfile.write`."""
    model._check_is_pytorch_model()
    return modelfile.write(
        model.model,
        Path(out),
        at,
        block,
        monitor=monitor,
        redirect=redirect,
        read=tasks.yaml_model_load,
        scale_of=tasks.guess_model_scale,
    )


def load_pretrained(model: Any, weights: str | Path | torch.nn.Module) -> Transfer:
    """Load a checkpoint into a network with blocks, each tensor from its own layer; say how many.

    ``YOLO.load`` and ``train(pretrained=...)`` do the same, whatever rows a model file has more.

    Args:
        model: a ``YOLO``, ours or Ultralytics' own, or its network.
        weights: a checkpoint's path, or a network.

    Raises:
        UsageError: a file that is not there, or no network.
        LostBlocksError: weights with blocks where this network has none.
    """
    network = getattr(model, "model", None) if isinstance(model, Model) else model
    if not isinstance(network, tasks.BaseModel):
        raise UsageError(f"model={shown(model)}: expected a YOLO or its network, in PyTorch")
    source: Any = weights
    if not isinstance(weights, torch.nn.Module):
        source = opened(_existing_model(str(weights)), to="load").model
    (network if network is model else model).load(source)
    return compare(source, network)


def prepare(words: Iterable[str]) -> tuple[WithBlocks, dict[str, Any]]:
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


def opened(model: str, task: str | None = None, *, to: str) -> WithBlocks:
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


def open_model(name: str) -> WithBlocks:
    """The PyTorch model of a model file or checkpoint, by its path or Ultralytics' own name.

    Raises:
        UsageError: what is not there, what Ultralytics cannot read, or what is not PyTorch.
    """
    return opened(_existing_model(name), to="insert into")


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
