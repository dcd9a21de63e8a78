"""``coordcbam export key=value ...``: Ultralytics' export of a model with its blocks."""

import argparse
import shlex
from typing import Any

from coordcbam.cli.words import add_words, prepared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words for Ultralytics."""
    add_words(parser, "model=best.pt, format=onnx, imgsz=, dynamic=")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the file was written; ``coordcbam check`` compares it with the model."""
    model, arguments = prepared(args.words, "export")
    from coordcbam.hosts.ultralytics import exported

    file = exported(model, arguments)
    if model.ckpt_path is None:
        print(f"{file}: of weights that were drawn just now, so no checkpoint can be compared")
    else:
        target, export = shlex.quote(str(model.ckpt_path)), shlex.quote(file)
        print(f"{file}: check it with  coordcbam check {target} --export {export} --image ...")
    return 0, {"file": file}
