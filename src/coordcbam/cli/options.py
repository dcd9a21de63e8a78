"""Flags for the block's options, read from the fields' own rules."""

import argparse
import json
from pathlib import Path
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam.block import PRESETS, BlockConfig, Rule, all_rules


def add_block_options(parser: argparse.ArgumentParser) -> None:
    """``--preset``, ``--config`` and one flag per option, named as in the notebook."""
    group = parser.add_argument_group(
        "the block", "a preset or a JSON file, then single options by their notebook names"
    )
    group.add_argument(
        "--preset",
        default=None,
        metavar="NAME",
        help=f"one of {', '.join(PRESETS)} (default {PRESETS[-1]})",
    )
    group.add_argument("--config", type=Path, metavar="FILE", help="options as JSON")
    for _, rule in all_rules():
        flags = dict.fromkeys((f"--{rule.flag.replace('_', '-')}", f"--{rule.flag}"))
        group.add_argument(
            *flags,
            dest=f"option_{rule.flag}",
            metavar=rule.kind.__name__.upper(),
            help=f"{rule.help}: {rule.expected} (default {rule.default})".replace("%", "%%"),
        )


def config_from(args: argparse.Namespace) -> BlockConfig:
    """The config that the flags ask for.

    Raises:
        UsageError: an unknown preset, a file that is no config, or a value outside its range.
    """
    if args.preset is not None and args.config is not None:
        raise UsageError("--preset and --config: give one of them")
    if args.config is None:
        config = BlockConfig.preset(args.preset or PRESETS[-1])
    else:
        config = _from_file(args.config)
    given = {
        rule.flag: _parse(getattr(args, f"option_{rule.flag}"), rule)
        for _, rule in all_rules()
        if getattr(args, f"option_{rule.flag}") is not None
    }
    return config.replace(**given) if given else config


def chosen(args: argparse.Namespace) -> list[str]:
    """The flags of the block that were given."""
    flags = {f"--{name}": getattr(args, name) for name in ("preset", "config")}
    flags |= {
        f"--{r.flag.replace('_', '-')}": getattr(args, f"option_{r.flag}") for _, r in all_rules()
    }
    return [flag for flag, value in flags.items() if value is not None]


def _from_file(path: Path) -> BlockConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {path}: expected a JSON file ({error})") from None
    if isinstance(values, dict):
        values.pop("preset", None)  # run.json names it beside the options
    return BlockConfig.from_dict(values)


def _parse(text: str, rule: Rule) -> Any:
    """A flag's text in its option's type; what does not parse is left for the rule to refuse."""
    word = text.lower()
    if rule.kind is bool:
        return {"true": True, "false": False}.get(word, text)
    if word == "none" and word not in rule.choices:
        return None
    try:
        return rule.kind(text)
    except ValueError:
        return text
