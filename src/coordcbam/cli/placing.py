"""Flags that say which block goes where: ours with its options, or another by a word."""

import argparse
import json
import logging
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam.block import BlockConfig
from coordcbam.cli.options import add_block_options, chosen, config_from
from coordcbam.insert import Foreign, Insertion

DEFAULT_PLACES = "P3,P4,P5"


def add_placing(parser: argparse.ArgumentParser, *, otherwise: str = "") -> None:
    """``--at``, ``--block`` and its companions, and the options of our block."""
    parser.add_argument(
        "--at",
        default=None,
        metavar="PLACES",
        help="where: P3,P4,P5, neck, backbone, layer indices "
        f"(default {DEFAULT_PLACES}{otherwise})",
    )
    group = parser.add_argument_group("another block", "instead of ours, for comparison")
    group.add_argument(
        "--block",
        metavar="WORD",
        help="timm:NAME, ultralytics:NAME or package.module:Class, called with a width",
    )
    group.add_argument(
        "--block-options", metavar="JSON", help="its keyword arguments, as one JSON object"
    )
    group.add_argument(
        "--guard",
        type=float,
        metavar="SHARE",
        help="guard it: keep this share of the signal, in (0, 1)",
    )
    add_block_options(parser)


def block_from(args: argparse.Namespace) -> BlockConfig | Foreign:
    """What the flags ask for.

    Raises:
        UsageError: flags that exclude each other, or values outside their range.
    """
    if args.block is None:
        for flag in ("block_options", "guard"):
            if getattr(args, flag) is not None:
                raise UsageError(f"--{flag.replace('_', '-')} is for another block: give --block")
        return config_from(args)
    if chosen(args):
        raise UsageError(f"--block {args.block} has no {', '.join(chosen(args))}: leave them out")
    return Foreign.of(args.block, _object(args.block_options), args.guard)


def inserted(
    model: Any, at: str, block: BlockConfig | Foreign, *, monitor: bool = True
) -> Insertion:
    """Insert it into a YOLO, whose table is printed once, whether Ultralytics talks or not."""
    words: dict[str, Any] = {"config": block}
    if isinstance(block, Foreign):
        words = {"block": block.word, "options": block.options, "r_min": block.r_min}
    done: Insertion = model.insert(at, monitor=monitor, **words)
    if not logging.getLogger("ultralytics").isEnabledFor(logging.INFO):
        print(done)
    return done


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            f'--block-options {text}: expected a JSON object, such as {{"rd_ratio": 0.25}}'
        )
    return found
