"""Readings for Weights & Biases, in a run of yours."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require
from coordcbam.monitor.loggers.names import PREFIX


class WandB:
    """Scalars, histograms of gates and pictures in a W&B run, over a step of their own.

    W&B drops what comes with a step under its own counter, so the monitor's step goes along as a
    number, ``coordcbam/step``, which the charts have as their axis. The run stays open.

    Args:
        run: a ``wandb.Run``; the default is the one that ``wandb.init`` made.
        axis: the name of that number.
        commit: whether each reading is a row of W&B's; False adds it to the row that your own next
            ``run.log`` closes.

    Raises:
        MissingExtraError: no wandb.
        UsageError: no run.
    """

    def __init__(
        self, run: Any = None, *, axis: str = f"{PREFIX}step", commit: bool = True
    ) -> None:
        require("wandb", for_what="WandB")
        import wandb

        self._client: Any = wandb
        self._run: Any = wandb.run if run is None else run
        if self._run is None:
            raise UsageError("WandB: no run is active; call wandb.init() before, or give run=...")
        self._axis, self._commit = axis, commit
        self._run.define_metric(f"{PREFIX}*", step_metric=axis)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers, and the step as one of them."""
        self._run.log({**values, self._axis: step}, commit=self._commit)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Log one histogram of 64 bins a name."""
        made = {
            name: self._client.Histogram(value.numpy(), num_bins=64)
            for name, value in values.items()
        }
        self._run.log({**made, self._axis: step}, commit=self._commit)

    def picture(self, name: str, picture: Any, step: int) -> None:
        """Log an image: a file's, or an array (H, W, 3) of bytes."""
        given = os.fspath(picture) if isinstance(picture, os.PathLike) else picture
        made = self._client.Image(given)
        self._run.log({name: made, self._axis: step}, commit=self._commit)
