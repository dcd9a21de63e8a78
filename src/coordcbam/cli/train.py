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
    if args.at is not None or not attached(model.model):
        inserted(model, args.at or DEFAULT_PLACES, block)
    elif given or args.block:
        raise UsageError(
            "the model keeps its own blocks, so options of the block would do nothing: leave "
            f"out {', '.join([*given, *(['--block'] if args.block else [])])}"
        )
    model.train(**arguments)
    return 0, show_run(model.trainer.save_dir, Console())
