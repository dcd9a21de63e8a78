"""A run of Ultralytics that has no records of ours: what its own files say, without any block."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordcbam._support.extras import require
from coordcbam.records.metrics import read_metrics
from coordcbam.records.readings import Readings
from coordcbam.records.run import Run
from coordcbam.records.schema import FOLDER, RunInfo
from coordcbam.records.table import no_table

RESULTS, SETTINGS = "results.csv", "args.yaml"
# Neither of a training's results nor of its settings: where it ran and what it was called.
_PLACES = frozenset({"mode", "name", "project", "save_dir", "exist_ok"})
_TOPICS = ("metrics/", "train/", "val/")


def read_unrecorded(save_dir: Path) -> Run:
    """The run in ``save_dir``, which has a ``results.csv``; whether it has ended, nobody knows."""
    problems = ["no block was watched: scores and losses are those of results.csv"]
    metrics = [
        {name: value for name, value in row.items() if name == "epoch" or name.startswith(_TOPICS)}
        for row in read_metrics(save_dir / RESULTS, problems, first_epoch=1)
    ]
    settings = read_settings(save_dir, problems)
    return Run(
        folder=save_dir / FOLDER,
        info=RunInfo.from_dict({"host": "ultralytics", "status": "unknown"}),
        monitor=Readings(no_table()),
        metrics=tuple(metrics),
        events=(),
        pictures=(),
        problems=tuple(problems),
        settings=settings,
        metrics_file=RESULTS,
    )


def read_settings(save_dir: Path, problems: list[str]) -> Mapping[str, Any]:
    """What Ultralytics was called with, but for where the run is; empty where no file says it."""
    path = save_dir / SETTINGS
    if not path.is_file():
        return {}
    require("yaml", for_what="reading a run")
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (yaml.YAMLError, ValueError, OSError):
        found = None
    if not isinstance(found, Mapping):
        problems.append(f"{path.name} is not readable: the host's settings are unknown")
        return {}
    return {str(name): value for name, value in found.items() if name not in _PLACES}
