"""Class paths that never move: hosts pickle whole modules, so a path is part of the file format."""

from typing import TypeVar

T = TypeVar("T")


def permanent(thing: T) -> T:
    """Give a class or function the pickle path ``coordcbam.<name>``, wherever its file lies.

    The name must be in the lazy table of ``coordcbam/__init__.py``; a test checks that it is.
    See ``docs/decisions/001-class-paths.md``.
    """
    thing.__module__ = "coordcbam"
    return thing
