"""Loading a library that draws random numbers, without them being missed."""

import contextlib
import random
from collections.abc import Iterator


@contextlib.contextmanager
def same_dice() -> Iterator[None]:
    """Python's random numbers go on behind the ``with`` as before it: rich draws when it loads.

    >>> random.seed(0)
    >>> with same_dice():
    ...     first = random.random()
    >>> first == random.random()
    True
    """
    kept = random.getstate()
    try:
        yield
    finally:
        random.setstate(kept)
