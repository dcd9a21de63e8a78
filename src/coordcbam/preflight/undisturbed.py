"""Random numbers that are drawn in a ``with`` are not missed after it."""

import contextlib
import random
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """The states of PyTorch's, Python's and NumPy's generators are as before, behind the ``with``.

    >>> torch.manual_seed(1).initial_seed()
    1
    >>> before = torch.get_rng_state()
    >>> with undisturbed():
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    numpy = sys.modules.get("numpy")
    kept, plain = random.getstate(), None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(kept)
        if numpy is not None:
            numpy.random.set_state(plain)
