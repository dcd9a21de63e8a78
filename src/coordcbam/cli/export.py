"""``coordcbam export key=value ...``: Ultralytics' export of a model with its blocks."""

import argparse
from typing import Any

from coordcbam.cli.words import add_words, prepared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words for Ultralytics."""
    add_words(parser, "model=best.pt, format=onnx, imgsz=, dynamic=")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the file was written; ``coordcbam check`` compares it with the model."""
    model, arguments = prepared(args.words, "export")
    file = model.export(**arguments)
    print(f"{file}: check it with  coordcbam check {model.ckpt_path} --export {file} --image ...")
    return 0, {"file": str(file)}
