"""``coordcbam predict key=value ...``: Ultralytics' prediction by a model with its blocks."""

import argparse
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam.cli.words import add_words, prepared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words for Ultralytics."""
    add_words(parser, "model=best.pt, source=, conf=, save=")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when every picture was read; annotated copies are saved unless ``save=False``."""
    model, arguments = prepared(args.words, "predict")
    pictures, folder = [], None
    try:
        for result in model.predict(**{"save": True, **arguments, "stream": True}):
            found, folder = result.summary(), result.save_dir
            pictures.append({"file": result.path, "found": found})
            names = ", ".join(f"{one['name']} {one['confidence']:.2f}" for one in found)
            print(f"{result.path}: {names or 'nothing'}")
    except FileNotFoundError as error:
        raise UsageError(f"source={arguments['source']}: {error}") from None
    return 0, {"pictures": pictures, "folder": folder}
