"""``coordcbam train key=value ...``: Ultralytics' training with the block inserted first."""

import argparse
from typing import Any

from rich.console import Console

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.cli.options import chosen
from coordcbam.cli.placing import DEFAULT_PLACES, add_placing, block_from, insertion_of
from coordcbam.insert import attached


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The places, the block's options, and words for Ultralytics."""
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="for Ultralytics: model=, data=, epochs=, ..."
    )
    add_placing(parser, otherwise="; a model that has blocks keeps its own")


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the training finished with its blocks."""
    require("ultralytics", for_what="training")
    from coordcbam.cli.result import show_run
    from coordcbam.hosts.ultralytics import prepare

    block, given = block_from(args), chosen(args)
    model, arguments = prepare(_with_digits(args.words))
    if args.at is not None or not attached(model.model):
        print(model.insert(args.at or DEFAULT_PLACES, **insertion_of(block)))
    elif given or args.block:
        raise UsageError(
            "the model keeps its own blocks, so options of the block would do nothing: leave "
            f"out {', '.join([*given, *(['--block'] if args.block else [])])}"
        )
    model.train(**arguments)
    return 0, show_run(model.trainer.save_dir, Console())


def _with_digits(words: list[str]) -> list[str]:
    """``data=digits`` is the embedded set."""
    if "data=digits" not in words:
        return words
    from coordcbam.data import digits

    return [f"data={digits()}" if word == "data=digits" else word for word in words]
