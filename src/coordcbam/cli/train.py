"""``coordcbam train key=value ...``: Ultralytics' training with the block inserted first."""

import argparse
from typing import Any

from rich.console import Console

from coordcbam._support.errors import UsageError
from coordcbam.cli.options import chosen
from coordcbam.cli.placing import DEFAULT_PLACES, add_placing, block_from, inserted
from coordcbam.cli.words import add_words, prepared
from coordcbam.insert import attached


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The places, the block's options, and words for Ultralytics."""
    add_words(parser, "model=, data=, epochs=")
    add_placing(parser, otherwise="; a model that has blocks keeps its own")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the training finished with its blocks."""
    from coordcbam.cli.result import show_run

    block, given = block_from(args), chosen(args)
    model, arguments = prepared(args.words, "train")
    if arguments.get("resume"):
        _check_resumed(args, model)
    elif args.at is not None or not attached(model.model):
        inserted(model, args.at or DEFAULT_PLACES, block)
    elif given or args.block:
        raise UsageError(
            "the model keeps its own blocks, so options of the block would do nothing: leave "
            f"out {', '.join([*given, *(['--block'] if args.block else [])])}"
        )
    model.train(**arguments)
    return 0, show_run(model.trainer.save_dir, Console())


def _check_resumed(args: argparse.Namespace, model: Any) -> None:
    """Raise where flags would do nothing, or the run has no block to go on with."""
    flags = [f"--{name}" for name in ("at", "block") if getattr(args, name)] + chosen(args)
    if flags:
        raise UsageError(f"resume goes on with what the run has: leave out {', '.join(flags)}")
    if not attached(model.model):
        raise UsageError(
            f"{model.ckpt_path} has no block to go on with: yolo train resume={model.ckpt_path} "
            "goes on without, coordcbam train model=... data=... begins with blocks"
        )
