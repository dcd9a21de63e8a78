"""``coordcbam train key=value ...``: Ultralytics' training with the block inserted first."""

import argparse
from typing import Any

from rich.console import Console

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.cli.options import add_block_options, chosen, config_from
from coordcbam.insert import blocks

DEFAULT_PLACES = "P3,P4,P5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The places, the block's options, and words for Ultralytics."""
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="for Ultralytics: model=, data=, epochs=, ..."
    )
    parser.add_argument(
        "--at",
        default=None,
        help=f"where: P3,P4,P5, neck, backbone, layer indices (default {DEFAULT_PLACES}; a "
        "checkpoint that has blocks keeps its own)",
    )
    add_block_options(parser)


def run(args: argparse.Namespace) -> tuple[int, Any]:
    """Status 0 when the training finished with its blocks."""
    require("ultralytics", for_what="training")
    from coordcbam.cli.result import show_run
    from coordcbam.hosts.ultralytics import prepare

    config = config_from(args)
    model, arguments = prepare(_with_digits(args.words))
    if args.at is not None or not blocks(model.model):
        print(model.insert(args.at or DEFAULT_PLACES, config))
    elif chosen(args):
        raise UsageError(
            "the checkpoint keeps its own blocks, so options of the block would do nothing: leave "
            f"out {', '.join(chosen(args))}"
        )
    model.train(**arguments)
    return 0, show_run(model.trainer.save_dir, Console())


def _with_digits(words: list[str]) -> list[str]:
    """``data=digits`` is the embedded set."""
    if "data=digits" not in words:
        return words
    from coordcbam.data import digits

    return [f"data={digits()}" if word == "data=digits" else word for word in words]
