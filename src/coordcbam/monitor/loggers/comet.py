"""Readings for Comet, in an experiment of yours."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require


class Comet:
    """Scalars, histograms of gates and pictures in an experiment of Comet's, which stays open.

    Args:
        experiment: online or offline; the default is the one that runs.

    Raises:
        MissingExtraError: no experiment, and no comet_ml.
        UsageError: no experiment, or one that has ended.
    """

    def __init__(self, experiment: Any = None) -> None:
        if experiment is None:
            require("comet_ml", for_what="Comet")
            import comet_ml

            experiment = comet_ml.get_running_experiment()
        # Comet calls the last one running, also once it has ended.
        if experiment is None or getattr(experiment, "ended", False):
            raise UsageError(
                "Comet: no experiment runs; call comet_ml.start() before, or give experiment=..."
            )
        self._experiment = experiment

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers."""
        self._experiment.log_metrics(dict(values), step=step)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Log one histogram a name."""
        for name, value in values.items():
            self._experiment.log_histogram_3d(value.numpy(), name=name, step=step)

    def picture(self, name: str, picture: Any, step: int) -> None:
        """Log an image: a file's, or an array (H, W, 3) of bytes."""
        given = os.fspath(picture) if isinstance(picture, os.PathLike) else picture
        self._experiment.log_image(given, name=name, step=step)
