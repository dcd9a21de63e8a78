"""The environment of a process that runs Ultralytics without a network."""

import json
import os
from pathlib import Path


def without_trackers(folder: Path) -> None:
    """Have Ultralytics use none of the trackers that are installed, which it does by itself."""
    from ultralytics import SETTINGS, __version__

    # Older releases begin a file anew that lacks a setting; later ones fill it up.
    old = tuple(map(int, __version__.split(".")[:3])) < (8, 4, 100)
    others = dict(SETTINGS) if old else {}
    text = json.dumps({**others, "comet": False, "mlflow": False, "wandb": False})
    for place in (folder, folder / "Ultralytics"):  # by its release
        file = place / "settings.json"
        if not file.exists():  # a test may want one
            place.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """For a fresh process: offline, and with settings of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    without_trackers(folder)
    # Ultralytics switches its loggers off where it sees pytest's variables.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return {
        **inherited,
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(folder),
    }
