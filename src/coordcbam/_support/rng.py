"""Random numbers that are drawn in a ``with`` are not missed after it."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def fork_rng(*tensors: Any) -> Iterator[None]:
    """As ``torch.random.fork_rng``, for the numbers of Python and NumPy as well.

    Of NumPy and PyTorch only where they are loaded; of the CUDA devices those of ``tensors``.

    >>> random.seed(0)
    >>> with fork_rng():
    ...     first = random.random()
    >>> first == random.random()
    True
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    devices = sorted({t.device.index for t in tensors if t.is_cuda})
    python, numbers = random.getstate(), None if numpy is None else numpy.random.get_state()
    try:
        with contextlib.nullcontext() if torch is None else torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(numbers)
