"""``coordcbam VERB ...``: finds the verb's file, runs it, turns errors into one line and a status.

Status 0: fine; 1: a finding or a failure; 2: wrong usage. Nothing heavy is imported before the verb
is known, so ``coordcbam --help`` is quick.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO

from coordcbam._support.errors import UsageError, did_you_mean
from coordcbam._version import __version__
from coordcbam.cli.output import write_json

VERBS = {
    "demo": "train a YOLO with the block on embedded data, watch it, report it",
    "insert": "write a model file, or a checkpoint, with blocks in it",
    "train": "train Ultralytics YOLO with the block on your own data",
    "val": "validate a YOLO with its blocks",
    "predict": "find objects with a YOLO and its blocks",
    "export": "write a YOLO with its blocks in another format",
    "preflight": "what blocks would do to a YOLO before it is trained: gain, score, cost",
    "quicktest": "the notebook's section 8, read by its section 9",
    "check": "a config, live; or the silent failures of weights, a run's folder or an export",
    "report": "rebuild the page of a run",
    "bench": "what the block costs here, beside other attention blocks",
    "doctor": "what is installed, and which kernel runs each block",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, with the nearest flag, instead of printing the usage above it."""
        unknown = message.removeprefix("unrecognized arguments: ").split()
        hint = did_you_mean(unknown[0], self._option_string_actions) if unknown else ""
        raise UsageError(f"{message}{hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in words if not word.startswith("-")), "")
    prefix, debug = "coordcbam", "--debug" in words
    try:
        if not verb or words[0] != verb:
            return _without_verb(words)
        if verb not in VERBS:
            hint = did_you_mean(verb, VERBS) or f": expected {', '.join(VERBS)}"
            raise UsageError(f"unknown verb {verb!r}{hint}")
        prefix = f"coordcbam {verb}"
        return _run(verb, words[1:])
    except UsageError as error:
        status, text = 2, str(error)
        if debug:
            raise
    except KeyboardInterrupt:
        status, text = 130, "interrupted"
    except Exception as error:
        status, text = 1, f"{type(error).__name__}: {error} (--debug shows where)"
        if debug:
            raise
    print(f"{prefix}: {' '.join(text.split())}", file=sys.stderr)
    return status


def _without_verb(words: Sequence[str]) -> int:
    epilog = "\n".join(f"  {verb:<11}{text}" for verb, text in VERBS.items())
    parser = Parser(
        prog="coordcbam",
        usage="coordcbam VERB [options]",
        description="Channel + coordinate attention you can trust in a detector.",
        epilog=f"verbs:\n{epilog}\n\ncoordcbam VERB --help tells more; every verb takes --json.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"coordcbam {__version__}")
    parser.parse_args(words)
    parser.print_help()
    return 0 if not words else 2


def _run(verb: str, words: Sequence[str]) -> int:
    command = importlib.import_module(f"coordcbam.cli.{verb}")
    parser = Parser(prog=f"coordcbam {verb}", description=VERBS[verb], allow_abbrev=False)
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_intermixed_args(words)
    if not args.json:
        status, _ = command.run(args)
        return int(status)
    with _only_json_on_stdout() as out:
        status, document = command.run(args)
        write_json(document, out)
    return int(status)


@contextmanager
def _only_json_on_stdout() -> Iterator[TextIO]:
    """Send everything printed inside to stderr, also by C code; yield the real stdout."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no real file behind stdout
        yield sys.stdout
        return
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    sys.exit(main())
