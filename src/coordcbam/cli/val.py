"""``coordcbam val key=value ...``: Ultralytics' validation of a model with its blocks."""

import argparse
from typing import Any

from coordcbam.cli.words import add_words, prepared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words for Ultralytics."""
    add_words(parser, "model=best.pt, data=, imgsz=, split=")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the model was validated."""
    model, arguments = prepared(args.words, "val")
    found = model.val(**arguments)
    scores = {name: float(value) for name, value in found.results_dict.items()}
    told = [f"{name.removeprefix('metrics/')} {value:.3f}" for name, value in scores.items()]
    print("Validation: " + ", ".join(told))
    return 0, {"metrics": scores, "folder": found.save_dir}
