"""Readings for TensorBoard, through torch's own writer of event files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coordcbam._support.errors import UsageError, shown
from coordcbam._support.extras import require


class TensorBoard:
    """Scalars, histograms of gates and pictures in an event file.

    Args:
        to: a folder, or a ``SummaryWriter``, which stays open. In a folder that has events already,
            those from the first new step on are superseded: a resumed run repeats its last steps.

    Raises:
        MissingExtraError: a folder, and no tensorboard.
        UsageError: neither of the two.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     board = TensorBoard(folder)
    ...     board.log({"coordcbam/model.16/rho": 0.9}, step=0)
    ...     board.close()
    ...     len(list(Path(folder).iterdir()))
    1
    """

    def __init__(self, to: Any) -> None:
        self._folder = to if isinstance(to, (str, os.PathLike)) else None
        self._writer: Any = None
        if self._folder is not None:
            require("tensorboard", for_what="TensorBoard")
        elif hasattr(to, "add_scalar") and hasattr(to, "add_histogram"):
            self._writer = to
        else:
            raise UsageError(f"TensorBoard({shown(to)}): expected a folder or a SummaryWriter")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add one scalar a name."""
        writer = self._open(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Add one histogram a name."""
        writer = self._open(step)
        for name, value in values.items():
            writer.add_histogram(name, value, step)

    def picture(self, name: str, picture: Any, step: int) -> None:
        """Add an image: a file's, or an array (H, W, 3) of bytes."""
        if isinstance(picture, (str, os.PathLike)):
            picture = _pixels(Path(picture))
        self._open(step).add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left; close the writer if it was made here."""
        if self._writer is not None:
            self._writer.flush()
            if self._folder is not None:
                self._writer.close()

    def _open(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._folder, purge_step=step)
        return self._writer


def _pixels(path: Path) -> Any:
    import numpy as np

    require("PIL", for_what="a picture in TensorBoard")
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
