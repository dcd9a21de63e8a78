"""Readings for MLflow, in a run of yours or one made for them."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from coordcbam._support.errors import UsageError
from coordcbam._support.extras import require

_AT_ONCE = 1000  # metrics that one request may hold
_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)


class MLflow:
    """Scalars and pictures in a run of MLflow, which has no histograms.

    Args:
        run_id: an existing run; the default is the active one.
        tracking_uri: where the run is. Without ``run_id`` and an active run, one is made there, in
            the default experiment, and ended by :meth:`close`.

    Raises:
        MissingExtraError: no mlflow.
        UsageError: no run, and no place to make one.
    """

    def __init__(self, run_id: str | None = None, *, tracking_uri: str | None = None) -> None:
        require("mlflow", for_what="MLflow")
        import mlflow
        from mlflow.entities import Metric

        active = mlflow.active_run() if run_id is None else None
        if active is not None:
            run_id = active.info.run_id
        if run_id is None and tracking_uri is None:
            raise UsageError(
                "MLflow: no run is active; call mlflow.start_run() before, or give run_id=... or "
                "tracking_uri=..."
            )
        self._client = mlflow.MlflowClient(tracking_uri)
        self._metric: Any = Metric
        self._ours = run_id is None
        self.run_id = run_id or self._client.create_run("0").info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers, a thousand at once."""
        now = time.time_ns() // 1_000_000
        metrics = [
            self._metric(_allowed(name), float(value), now, step) for name, value in values.items()
        ]
        for part in _parts(metrics):
            self._client.log_batch(self.run_id, metrics=part)

    def picture(self, name: str, picture: Any, step: int) -> None:
        """Keep a picture among the run's artifacts, in a folder of its name and step."""
        folder = f"{_allowed(name)}/{step}"
        if isinstance(picture, (str, os.PathLike)):
            self._client.log_artifact(self.run_id, os.fspath(picture), folder)
        else:
            self._client.log_image(self.run_id, picture, f"{folder}/picture.png")

    def close(self, status: str = "finished") -> None:
        """End the run if it was made here; of any other ``status`` it has failed."""
        if self._ours:
            ended = "FINISHED" if status == "finished" else "FAILED"
            self._client.set_terminated(self.run_id, ended)


def _allowed(name: str) -> str:
    """A name that MLflow takes.

    >>> _allowed("coordcbam/neck[0]/rho")
    'coordcbam/neck_0_/rho'
    """
    return _FORBIDDEN.sub("_", name)


def _parts(metrics: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(metrics), _AT_ONCE):
        yield metrics[start : start + _AT_ONCE]
