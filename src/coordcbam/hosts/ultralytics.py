"""Ultralytics YOLO with attention that stays in: ``YOLO(...).insert(...)``, then train as ever.

The only file that imports ultralytics (AGPL-3.0). Three facts about it shape this file:

* ``train()`` rebuilds the network from ``model.yaml``, so what was inserted is written there, under
  the key ``coordcbam``, and put back whenever a network is built from such a file;
* checkpoints are pickles, so loading one of ours imports coordcbam, which registers this file;
* a plain ``ultralytics.YOLO`` runs the same builders, so it keeps the blocks of our checkpoints,
  and knows our row of a model file, ``CoordCBAMLayer``.
"""

import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import torch
import ultralytics
from ultralytics.cfg import (
    CFG_BOOL_KEYS,
    TASKS,
    _handle_deprecation,
    get_cfg,
    get_save_dir,
    parse_key_value_pair,
)
from ultralytics.data import dataset as datasets
from ultralytics.data.augment import classify_transforms
from ultralytics.engine import trainer as engine
from ultralytics.engine.exporter import Exporter, export_formats
from ultralytics.engine.model import Model
from ultralytics.engine.predictor import BasePredictor
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.engine.tuner import Tuner
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG_DICT, ROOT
from ultralytics.utils.callbacks.base import default_callbacks
from ultralytics.utils.checks import check_file, check_imgsz
from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS
from ultralytics.utils.patches import imread

from coordcbam._support.errors import UsageError, did_you_mean, nearest, said, shown
from coordcbam._support.files import check_writable
from coordcbam.block import BlockConfig
from coordcbam.hosts.watched import LostBlocksError
from coordcbam.hosts.yolo import looking, modelfile, patches
from coordcbam.hosts.yolo.inserting import Inserting
from coordcbam.hosts.yolo.pickled import pickled
from coordcbam.hosts.yolo.places import resolve
from coordcbam.hosts.yolo.row import CoordCBAMLayer
from coordcbam.hosts.yolo.rows import ROW
from coordcbam.hosts.yolo.saving import stripping_aside
from coordcbam.hosts.yolo.scoring import IMAGES, Scoring
from coordcbam.hosts.yolo.training import Monitoring
from coordcbam.hosts.yolo.transfer import Transfer, compare
from coordcbam.insert import (
    Plan,
    attached,
    switches,
)
from coordcbam.insert.foreign import SOURCES, Foreign
from coordcbam.monitor.loggers import Comet, MLflow, TensorBoard, WandB
from coordcbam.records.pictures import Picture

__all__ = [
    "RTDETR",
    "YOLO",
    "LostBlocksError",
    "Monitored",
    "WithBlocks",
    "YOLOWorld",
    "exported",
    "load_pretrained",
    "look_at",
    "opened",
    "prepare",
    "register",
    "resolve",
    "scoring",
    "write_model",
]


class WithBlocks(Inserting, Model):
    """A model of Ultralytics' with :meth:`insert`; every other call is Ultralytics' own."""

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Ultralytics' own table, with trainers that monitor the blocks."""
        table: dict[str, dict[str, Any]] = super().task_map
        return {
            task: {**entry, "trainer": TRAINERS.get(entry["trainer"], entry["trainer"])}
            for task, entry in table.items()
        }

    def tune(self, *args: Any, **kwargs: Any) -> Any:
        """Ultralytics' own; its runs are processes that get the network, or once a file."""
        if attached(self.model) and "model" not in inspect.signature(Tuner.__init__).parameters:
            with tempfile.TemporaryDirectory(prefix="coordcbam-") as folder:
                file = Path(folder) / f"{Path(str(self.overrides['model'])).stem}.pt"
                self.save(file)
                return super().tune(*args, **{**kwargs, "model": str(file)})
        return super().tune(*args, **kwargs)


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


class Monitored(Monitoring, BaseTrainer):
    """A trainer of Ultralytics' that watches the blocks, and whose checkpoints survive a kill."""

    coordcbam_predictor: type[BasePredictor] = BasePredictor

    def coordcbam_back_ends(self) -> dict[str, Callable[[], Any]]:
        """How to reach each logger of Ultralytics' that this run has opened, by its callbacks."""
        return {
            name: partial(adapted, callbacks)
            for name, adapted in _BACK_ENDS.items()
            if (callbacks := sys.modules.get(f"ultralytics.utils.callbacks.{name}"))
            and getattr(callbacks, "on_fit_epoch_end", None) in self.callbacks["on_fit_epoch_end"]
        }

    def coordcbam_sight(self, network: torch.nn.Module) -> looking.Sight:
        """How the run's predictor takes images."""
        return _sight(self.coordcbam_predictor, network, self.args.task, self.args.imgsz)


# Each None where Ultralytics could not open its own.
_BACK_ENDS: dict[str, Callable[[Any], Any]] = {
    "tensorboard": lambda module: module.WRITER and TensorBoard(module.WRITER),
    "wb": lambda module: module.wb.run and WandB(module.wb.run, axis="epoch", commit=False),
    "mlflow": lambda module: module.mlflow.active_run() and MLflow(),
    "comet": lambda module: module.comet_ml.get_running_experiment() and Comet(),
}

# Words that are True where nothing follows, though none of them need be boolean in its defaults.
_BARE = frozenset({"resume", "half", "int8", "end2end", "nms"})

TWINS: dict[type, Any] = {ultralytics.RTDETR: RTDETR, ultralytics.YOLOWorld: YOLOWorld}

if hasattr(ultralytics, "YOLOE"):  # not in its first releases of 8.3

    class YOLOE(WithBlocks, ultralytics.YOLOE):
        """``ultralytics.YOLOE`` with :meth:`insert`."""

    TWINS[ultralytics.YOLOE] = YOLOE


def _monitored_trainers() -> dict[type, type]:
    """A monitored twin of each stock trainer, importable by name so that it can be pickled."""
    twins: dict[type, type] = {}
    tables = [kind.task_map.fget(None) for kind in (ultralytics.YOLO, *TWINS)]
    for entry in (entry for table in tables for entry in table.values()):
        base, members = entry["trainer"], {"coordcbam_predictor": entry["predictor"]}
        name = f"Monitored{base.__name__}"
        doc = f"Ultralytics' {base.__name__}, watching the blocks while it trains."
        twin = type(name, (Monitored, base), {"__module__": __name__, "__doc__": doc, **members})
        globals()[name] = twins[base] = twin
    return twins


def register() -> None:
    """Teach Ultralytics about the blocks; done at import, harmless to repeat.

    Its builders learn the key ``coordcbam`` and the row ``CoordCBAMLayer``; its loading matches
    layers; its trainers close the blocks' step with the optimizer's, let no scalar of theirs decay
    and strip a checkpoint aside; its exporter takes the inference form; ``reset_weights`` leaves
    fresh blocks. All that holds for a plain ``ultralytics.YOLO`` as well.
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
    Model.reset_weights = patches.restarting(Model.reset_weights)
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


def look_at(
    model: str | Path | Model,
    images: Iterable[str | Path],
    folder: str | Path,
    *,
    imgsz: int | None = None,
) -> list[Picture]:
    """Draw what the blocks of a model do to images, taken as its predictor takes them.

    Writes ``<folder>/pictures/*.jpg`` and ``<folder>/pictures.json``. Objects are known from label
    files, ``labels/a.txt`` for ``images/a.jpg``.

    Args:
        model: a checkpoint's path, or a ``YOLO``, ours or Ultralytics' own.
        images: paths of image files.
        folder: of the pictures; made where it is not there.
        imgsz: what the images are brought to; the default is what the model was trained with.

    Raises:
        UsageError: a file that is not there or cannot be read, or a model without blocks.
    """
    if not isinstance(model, Model):
        if not isinstance(model, (str, Path)) or not Path(model).is_file():
            raise UsageError(f"{model}: no such checkpoint; expected best.pt of a run with blocks")
        if Path(model).suffix != ".pt":
            raise UsageError(f"{model}: not a .pt; expected best.pt of a run with blocks")
        model = opened(str(model), to="look into")
    network = model.model
    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"{network}: not PyTorch; expected a checkpoint, best.pt")
    if not switches(network):
        raise UsageError(f"{model.ckpt_path or 'model'}: no blocks in it; YOLO.insert puts them in")
    if imgsz is not None and (not isinstance(imgsz, int) or isinstance(imgsz, bool) or imgsz < 1):
        raise UsageError(f"imgsz={shown(imgsz)}: expected a number of pixels, such as 640")
    size = imgsz or model.overrides.get("imgsz") or DEFAULT_CFG_DICT["imgsz"]
    sight = _sight(model._smart_load("predictor"), network, model.task, size)
    return looking.look_at(network, images, folder, sight)


def _sight(kind: type[BasePredictor], network: Any, task: str, imgsz: Any) -> looking.Sight:
    """Images as a predictor of this kind reads and prepares them, on the CPU."""
    predictor = kind(overrides={"task": task, "imgsz": imgsz, "rect": True})
    stride = max(int(network.stride.max()), 32)
    # What a predictor asks of the network that it has been set up for, by its old and new names.
    predictor.model = SimpleNamespace(fp16=False, pt=True, format="pt", stride=stride)
    predictor.imgsz = check_imgsz(imgsz, stride=stride, min_dim=2)
    predictor.device = torch.device("cpu")
    if task == "classify":
        predictor.transforms = classify_transforms(predictor.imgsz[0])
    grey = network.yaml.get("channels", 3) == 1

    def read(file: str) -> Any:
        return imread(file, flags=cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)

    return looking.Sight(read, lambda pixels: predictor.preprocess([pixels]), task)


def load_pretrained(
    model: Any, weights: str | Path | torch.nn.Module | Model | Mapping[str, Any]
) -> Transfer:
    """Load a checkpoint into a network with blocks, each tensor from its own layer; say how many.

    ``YOLO.load`` and ``train(pretrained=...)`` do the same, whatever rows a model file has more.

    Args:
        model: a ``YOLO``, ours or Ultralytics' own, or its network.
        weights: a checkpoint's path, a checkpoint, a ``YOLO`` or its network.

    Raises:
        UsageError: a file that is not there, no network, or one of which not one tensor fits.
        LostBlocksError: weights with blocks where this network has none.
    """
    network = getattr(model, "model", None) if isinstance(model, Model) else model
    if not isinstance(network, tasks.BaseModel):
        raise UsageError(f"model={shown(model)}: expected a YOLO or its network, in PyTorch")
    source = _network_of(weights)
    (network if network is model else model).load(source)
    told = compare(source, network)
    if not told.kept:
        named = weights if isinstance(weights, (str, Path)) else type(weights).__name__
        raise UsageError(
            f"weights={named}: not one of {told.total} tensors fits; is it this model?"
        )
    return told


def _network_of(weights: Any) -> Any:
    """The network that weights are: a module that is none of Ultralytics' wrappers."""
    held = weights
    if isinstance(weights, (str, Path)):
        held = opened(str(weights), to="load")
    elif isinstance(weights, Mapping):  # a checkpoint as torch.load gives it
        held = weights.get("ema") or weights.get("model")
    network = held.model if isinstance(held, Model) else held
    if not isinstance(network, torch.nn.Module):
        raise UsageError(
            f"weights={shown(weights)}: expected a checkpoint's path, a YOLO or its network; a "
            "state alone goes into a network by load_state_dict"
        )
    return network


def exported(model: WithBlocks, arguments: Mapping[str, Any]) -> str:
    """Ultralytics' own export, of which the file is returned.

    Raises:
        UsageError: a format that it has not, or an argument that the format has not.
    """
    try:
        return str(model.export(**arguments))
    except (AssertionError, ValueError) as error:
        if not re.search(r"export format=|in PyTorch format|format='", str(error)):
            raise
        said, name = str(error).split(" Valid formats are ")[0], str(arguments.get("format"))
        if said != str(error):
            said += f" Nearest are {nearest(name, export_formats()['Argument'][1:])}"
        raise UsageError(said) from None


def scoring(model: Model, data: str | Path, *, images: int = IMAGES, **arguments: Any) -> Scoring:
    """What scores networks like ``model``'s on a few images of ``data``: see :class:`Scoring`."""
    return Scoring(model, {**arguments, "data": str(data)}, images=images, datasets=datasets)


def prepare(words: Iterable[str], mode: str = "train") -> tuple[WithBlocks, dict[str, Any]]:
    """The model and the arguments of its ``mode`` that ``key=value`` words ask for, all checked.

    Words keep the meaning they have on Ultralytics' own command line: a bare boolean is True, a
    bare task is the task.

    Raises:
        UsageError: an unknown word, a bad value, or a model or data file that does not exist.
    """
    arguments = _known([word for word in words if word != mode])
    if mode == "train":
        _check_resumed(arguments)
    if "model" not in arguments:
        raise UsageError("no model: give model=yolo11n.yaml, or a checkpoint model=best.pt")
    needs_data = mode == "preflight" or (mode == "train" and not arguments.get("resume"))
    if needs_data and "data" not in arguments:
        raise UsageError("no data: give data=my.yaml, or data=digits for the embedded set")
    if mode == "predict" and "source" not in arguments:
        raise UsageError("no pictures: give source=a.jpg, a folder or a video")
    try:
        asked = get_cfg(overrides=arguments)
    except (TypeError, ValueError, SyntaxError) as error:
        raise UsageError(said(error)) from None
    model = str(arguments.pop("model"))
    _check_model(model)  # before the data, which may take long to look at
    _check_values(asked, mode)
    if mode == "export":  # which goes beside the checkpoint
        check_writable(Path(model).absolute().parent if Path(model).exists() else Path.cwd())
    elif "project" in arguments or "name" in arguments:
        check_writable(get_save_dir(asked).parent)
    if "data" in arguments:
        _check_data(str(arguments["data"]))
    exports = mode in {"val", "predict"}
    made = opened(model, arguments.pop("task", None), to=mode, exports=exports)
    # Ultralytics would begin another training, of data of its own.
    if arguments.get("resume") and not (made.ckpt or {}).get("optimizer"):
        raise UsageError(f"{model}: its training has ended or never began; leave out resume")
    return made, arguments


def _check_resumed(arguments: dict[str, Any]) -> None:
    """Have ``resume=last.pt`` mean that file, where Ultralytics may take the newest of all runs."""
    file = arguments.get("resume")
    if not isinstance(file, (str, Path)):
        return
    if not Path(file).is_file():
        raise UsageError(f"resume={file}: no such checkpoint; give runs/.../weights/last.pt")
    if Path(arguments.setdefault("model", file)).resolve() != Path(file).resolve():
        raise UsageError(f"resume={file} and model={arguments['model']}: give one of them")


def opened(model: str, task: str | None = None, *, to: str, exports: bool = False) -> WithBlocks:
    """The PyTorch model of a model file or checkpoint, by its path or Ultralytics' own name.

    With ``exports``, also the model of an export.

    Raises:
        UsageError: what is not there, what Ultralytics cannot read, or what is not PyTorch.
    """
    _check_model(model)
    try:
        made = YOLO(model, task=task)
        if not exports:
            made._check_is_pytorch_model()
    except Exception as error:
        raise UsageError(f"{model!r} is no model to {to}: {said(error)}") from None
    return made


def _known(words: list[str]) -> dict[str, Any]:
    """What the words say, by the names that this release has for them."""
    found = [_parsed(word) for word in words]
    try:
        arguments: dict[str, Any] = _handle_deprecation(dict(found))
    except TypeError as error:
        raise UsageError(str(error)) from None
    for word, (key, _) in zip(words, found, strict=True):
        if key in arguments and key not in DEFAULT_CFG_DICT:
            raise UsageError(f"unknown word {word!r}: nearest are {nearest(key, DEFAULT_CFG_DICT)}")
    return arguments


def _parsed(word: str) -> tuple[str, Any]:
    if "=" not in word:
        if word in CFG_BOOL_KEYS or word in _BARE:
            return word, True
        if word in TASKS:
            return "task", word
        if Path(word).suffix in {".pt", ".yaml", ".yml"}:
            raise UsageError(f"unknown word {word!r}: expected model={word}, or data={word}")
        known = [f"{key}=..." for key in DEFAULT_CFG_DICT]
        raise UsageError(f"unknown word {word!r}: expected key=value{did_you_mean(word, known)}")
    try:
        key, value = parse_key_value_pair(word)
    except AssertionError:
        raise UsageError(f"{word!r}: the value is missing") from None
    return key, value


def _check_values(asked: Any, mode: str) -> None:
    """Raise for values that Ultralytics meets only once it runs."""
    try:
        check_imgsz(asked.imgsz, stride=1, max_dim=2)
    except Exception:  # of what it does not expect
        given = shown(asked.imgsz)
        raise UsageError(
            f"imgsz={given}: expected a number of pixels, such as 640, or [height, width]"
        ) from None
    if mode == "train" and isinstance(asked.pretrained, (str, Path)):
        _check_model(str(asked.pretrained), "weights")


def _check_model(name: str, kind: str = "model") -> None:
    """Raise unless it is a file, a stock model file, or weights that Ultralytics publishes."""
    path = Path(name)
    if path.exists() or "://" in name:
        return
    if path.suffix in {".yaml", ".yml"}:
        try:
            tasks.yaml_model_load(path)
        except (FileNotFoundError, ValueError):
            stock = [file.name for file in (ROOT / "cfg" / "models").rglob("*.yaml")]
        else:
            return
    else:
        stock = [f"{stem}.pt" for stem in GITHUB_ASSETS_STEMS]
        if path.suffix == ".pt" and path.stem in GITHUB_ASSETS_STEMS:
            return
    beside = [str(file) for file in path.parent.glob(f"*{path.suffix}")] if path.suffix else []
    raise UsageError(f"no {kind} file {name!r}: nearest are {nearest(name, [*beside, *stock])}")


def _check_data(name: str) -> None:
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or path.is_file() or "://" in name:
        return
    if not check_file(name, download=False, hard=False):
        stock = [file.name for file in (ROOT / "cfg" / "datasets").rglob("*.yaml")]
        raise UsageError(f"no data file {name!r}: nearest are {nearest(path.name, stock)}")


TRAINERS = _monitored_trainers()
register()
