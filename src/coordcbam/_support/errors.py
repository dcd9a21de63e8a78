"""Errors whose text is one line: what was given, what was expected, what to do."""

import difflib
from collections.abc import Iterable
from typing import Any

_LONGEST = 120
_LONGEST_SAID = 300
_FEW = 8


class UsageError(ValueError):
    """A mistake of the caller's that the command line reports in one line, with exit status 2."""


class MissingExtraError(UsageError, ImportError):
    """An optional package is needed and absent."""


def shown(value: Any) -> str:
    """``repr(value)`` on one short line, whatever the value is.

    >>> shown("off"), len(shown([1] * 100))
    ("'off'", 121)
    """
    try:
        text = " ".join(repr(value).splitlines())
    except Exception:  # a repr of the caller's may raise anything
        return f"<{type(value).__name__} that cannot be printed>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def said(error: BaseException, *, kind: bool = False) -> str:
    r"""What an error says, on one short line; its kind alone where it says nothing, or cannot.

    >>> said(ValueError("a\n  b")), said(KeyError()), said(KeyError(1), kind=True)
    ('a b', 'KeyError', 'KeyError: 1')
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # an error of the caller's may raise another
        text = ""
    name = type(error).__name__
    text = f"{name}: {text}" if kind and text else text or name
    return text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}…"


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> str:
    """The known words closest to ``word``; when none is close, all of a few, or the least far.

    >>> nearest("coord_bta", ["coord_beta", "beta_ca", "r_min"])
    "'coord_beta'"
    >>> nearest("zzz", ["gn", "bn"])
    "'gn', 'bn'"
    >>> nearest("int8", [f"option_{number}" for number in range(100)]).count(",")
    2
    """
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word, names, n=count, cutoff=0.5)
    if not close:
        few = len(names) <= _FEW
        close = names if few else difflib.get_close_matches(word, names, n=count, cutoff=0.0)
    return ", ".join(repr(name) for name in close)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for a word that is nearly known, else ``""``.

    >>> did_you_mean("coord_bta", ["coord_beta", "alpha"])
    "; did you mean 'coord_beta'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
