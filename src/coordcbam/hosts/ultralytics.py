"""Ultralytics YOLO with attention that stays in: ``YOLO(...).insert(...)``, then train as ever.

The only file that imports ultralytics (AGPL-3.0). Three facts about it shape this file:

* ``train()`` rebuilds the network from ``model.yaml``, so what was inserted is written there, under
  the key ``coordcbam``, and put back whenever a network is built from such a file;
* checkpoints are pickles, so loading one of ours imports coordcbam, which registers this file;
* a plain ``ultralytics.YOLO`` runs the same builders, so it keeps the blocks of our checkpoints.
"""

import contextlib
import functools
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
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
from coordcbam.insert.plan import PlaceError
from coordcbam.monitor import Monitor, read

LOGGED = ("r_out_pre", "r_ema", "alpha_eff")
READINGS_PER_EPOCH = 10
PROBE = 256  # pixels: enough for stride 64 to leave a map
ASIDE = ".saving"  # in weights/: the folder where checkpoints are before they get their names


class LostBlocksError(RuntimeError):
    """Blocks would be lost, or were found missing, where they should be."""


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
            inputs=_probe(network),
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
        _fit_epoch_end(self)
        with _aside(self):
            return super().save_model()

    def final_eval(self) -> None:
        """Ultralytics' own, of a copy of ``last.pt``: a run can be resumed until it is closed."""
        last = self.last
        if RANK in {-1, 0} and last.exists():
            self.last = _empty_aside(self) / last.name
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
            _start(self)
            self.final_eval()
            if RANK in {-1, 0}:
                if self.args.plots:
                    self.plot_metrics()
                self.run_callbacks("on_train_end")


@contextlib.contextmanager
def _aside(trainer: Any) -> Iterator[None]:
    """What ``trainer`` saves meanwhile gets its names when it is whole, ``last.pt`` last.

    ``last.pt`` says from where a run is resumed: all that belongs to it is there before it.
    """
    final, aside = trainer.wdir, _empty_aside(trainer)
    _save_in(trainer, aside)
    try:
        yield
        for file in sorted(aside.iterdir(), key=lambda file: file.name == trainer.last.name):
            _rename(file, final / file.name)
    finally:
        _save_in(trainer, final)
        shutil.rmtree(aside, ignore_errors=True)


def _empty_aside(trainer: Any) -> Path:
    aside: Path = trainer.wdir / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # what a killed run has left
    aside.mkdir(parents=True)
    return aside


def _save_in(trainer: Any, folder: Path) -> None:
    trainer.wdir = folder
    trainer.last, trainer.best = folder / trainer.last.name, folder / trainer.best.name


def _rename(file: Path, target: Path) -> None:
    """Give a whole file its name, once its bytes are on the disk."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.replace(target)


def _stripping_aside(strip: Callable[..., Any]) -> Callable[..., Any]:
    """Ultralytics' ``strip_optimizer``, which writes over the checkpoint, made to replace it."""

    @functools.wraps(strip)
    def strip_optimizer(f: str | Path = "best.pt", s: str = "", *args: Any, **kwargs: Any) -> Any:
        target = Path(s or f)
        aside = target.with_name(f".{target.name}.tmp")
        combined = strip(f, str(aside), *args, **kwargs)
        if combined:
            _rename(aside, target)
        return combined

    return strip_optimizer


def _copy_to_average(trainer: Any) -> None:
    """Give the averaged network the blocks' live state; a notebook's moves between steps, too."""
    if trainer.ema:
        copy_monitor_state_(trainer.model, trainer.ema.ema)


def resolve(network: Any, at: str | int | Iterable[str | int]) -> list[int]:
    """The layer indices that ``at`` names, in order.

    Raises:
        PlaceError: a level, word or index that this network does not have.
    """
    words: list[Any]
    if isinstance(at, str):
        words = at.replace(",", " ").split()
    else:
        words = list(at) if isinstance(at, Iterable) else [at]
    head = len(network.model) - 1
    named = _named_places(network)
    indices: set[int] = set()
    for word in words:
        text = str(word)
        known = next((name for name in named if name.lower() == text.lower()), None)
        if known is not None:
            indices.update(named[known])
        elif text.isdecimal() and int(text) < head:
            indices.add(int(text))
        else:
            raise PlaceError(
                f"no place {text!r} in this network: nearest are {nearest(text, named)}, "
                f"or a layer index from 0 to {head - 1}"
            )
    if not indices:
        raise PlaceError(f"at={at!r} names no place: expected {nearest('', named)} or an index")
    return sorted(indices)


def _named_places(network: Any) -> dict[str, list[int]]:
    """``P3``..., ``neck`` and ``backbone`` as layer indices, read off the network itself."""
    layers = list(network.model)
    backbone = len(network.yaml["backbone"])
    sources = {layer.i: _sources(layer) for layer in layers}
    feeds_head = sorted(set(sources[layers[-1].i]))
    heights = _heights(network)
    levels = {
        f"P{round(math.log2(PROBE / heights[index]))}": [index]
        for index in feeds_head
        if heights.get(index)
    }
    read_by_neck = {
        source
        for index, found in sources.items()
        if index >= backbone
        for source in found
        if source < backbone
    }
    return {**levels, "neck": feeds_head, "backbone": sorted(read_by_neck)}


def _sources(layer: Any) -> list[int]:
    """Absolute indices of the layers that ``layer`` reads."""
    origins = layer.f if isinstance(layer.f, (list, tuple)) else [layer.f]
    return [origin if origin >= 0 else layer.i + origin for origin in origins]


def _heights(network: Any) -> dict[int, int]:
    """The height of each layer's output map for a probe image, by layer index."""
    seen: dict[int, int] = {}

    def note(layer: Any, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 4:
            seen[layer.i] = output.shape[2]

    handles = [layer.register_forward_hook(note) for layer in network.model]
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            network(_probe(network))
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return seen


def _probe(network: Any) -> torch.Tensor:
    like = next(network.parameters())
    channels = network.yaml.get("channels", 3)
    return torch.zeros(1, channels, PROBE, PROBE, device=like.device, dtype=like.dtype)


def _start(trainer: Any) -> None:
    """on_train_start: check that every block is there, then begin to watch."""
    network = _unwrapped(trainer.model)
    specs = getattr(network, "yaml", {}).get(RECIPE_KEY, ())
    found = {label(path) for path, _ in blocks(network)}
    wanted = [place["path"] for spec in specs for place in spec["places"]]
    lost = [path for path in wanted if path not in found]
    if lost:
        raise LostBlocksError(f"blocks were lost before training: {', '.join(lost)}")
    watched = any(block.monitor for _, block in blocks(network))
    if watched and RANK in {-1, 0}:
        batches = len(trainer.train_loader)
        trainer.coordcbam_monitor = Monitor(
            network,
            trainer.save_dir,
            every=max(1, batches // READINGS_PER_EPOCH),
            first_step=trainer.start_epoch * batches,
            commits=False,  # the trainer does, once an optimizer step
            host="ultralytics",
            command=f"train model={trainer.args.model} data={trainer.args.data}",
            versions={"ultralytics": ultralytics.__version__},
        )


def _batch_end(trainer: Any) -> None:
    if trainer.coordcbam_monitor is not None:
        trainer.coordcbam_monitor.step(epoch=trainer.epoch)


def _epoch_end(trainer: Any) -> None:
    """on_train_epoch_end: columns for results.csv and every logger, before they are written."""
    if trainer.coordcbam_monitor is None:
        return
    trainer.coordcbam_epoch_ended = True
    for block, values in read(trainer.coordcbam_monitor.model).items():
        if math.isnan(values["alpha"]):
            raise LostBlocksError(f"the block at {block} never ran in this epoch")
        trainer.lr.update({f"coordcbam/{block}/{name}": values[name] for name in LOGGED})


def _fit_epoch_end(trainer: Any) -> None:
    """on_fit_epoch_end: the epoch's metrics. Fires once more after the run, which is not one."""
    if trainer.coordcbam_monitor is None or not trainer.coordcbam_epoch_ended:
        return
    trainer.coordcbam_epoch_ended = False
    losses = trainer.label_loss_items(trainer.tloss, prefix="train")
    trainer.coordcbam_monitor.metrics(trainer.epoch, {**losses, **_short(trainer.metrics)})


def _end(trainer: Any) -> None:
    """on_train_end: close the records, and with them the run."""
    if trainer.coordcbam_monitor is not None:
        _close(trainer, trainer.coordcbam_monitor)
    stripped = trainer.wdir / ASIDE / trainer.last.name
    if stripped.exists():
        _rename(stripped, trainer.last)
        stripped.parent.rmdir()


def _close(trainer: Any, monitor: Monitor) -> None:
    """Finish the records and build the report, if its packages are there."""
    trainer.coordcbam_monitor = None
    monitor.close(result=_short(trainer.metrics or {}))
    try:
        from coordcbam.report import build_report

        LOGGER.info(f"coordcbam report: {build_report(monitor.folder)}")
    except ImportError as missing:
        LOGGER.info(f"coordcbam records in {monitor.folder}; {missing}")


def _teardown(trainer: Any) -> None:
    """Close the records of a run that stopped early; a finished one is closed already."""
    if trainer.coordcbam_monitor is not None:
        trainer.coordcbam_monitor.close(status="failed")
        trainer.coordcbam_monitor = None


CALLBACKS: dict[str, Callable[[Any], None]] = {
    "on_train_start": _start,
    "on_train_batch_end": _batch_end,
    "on_train_epoch_end": _epoch_end,
    "on_fit_epoch_end": _fit_epoch_end,
    "on_train_end": _end,
    "teardown": _teardown,
}


def _short(metrics: dict[str, Any]) -> dict[str, float]:
    """``metrics/mAP50(B)`` as ``mAP50``: one name whatever the host."""
    return {
        name.removeprefix("metrics/").removesuffix("(B)"): float(value)
        for name, value in metrics.items()
    }


def _unwrapped(network: Any) -> Any:
    """The network inside DataParallel or DistributedDataParallel."""
    return network.module if hasattr(network, "module") else network


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
    engine.strip_optimizer = _stripping_aside(engine.strip_optimizer)


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
