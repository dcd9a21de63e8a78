"""One call for all loggers of a run, none of which can stop it."""

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from coordcbam._support.errors import UsageError, said, shown
from coordcbam.monitor.loggers.names import histograms_of, picture_name, scalars_of
from coordcbam.records import read_pictures

_log = logging.getLogger("coordcbam")


@runtime_checkable
class Logger(Protocol):
    """What a logger needs: ``log``. A ``wandb.Run`` has it.

    Where there are methods ``histograms(values, step)`` (tensors by name), ``picture(name, picture,
    step)`` (a path, or an array (H, W, 3) of bytes) and ``close()``, they are called, too. A
    ``close`` with a parameter ``status`` is told how the run ended: ``"finished"``, or otherwise.

    >>> class Printing:
    ...     def log(self, values, step):
    ...         print(step, values)
    >>> isinstance(Printing(), Logger)
    True
    """

    def log(self, values: dict[str, float], step: int) -> Any:
        """Take the numbers of one step by name."""


class Loggers:
    """The loggers of one run; whose call raises says so in one line and is called no more.

    Args:
        loggers: each with a method ``log(values, step)``, or a function of these two.

    Raises:
        UsageError: something else.

    >>> to = Loggers([print])
    >>> to.scalars({"model.16": {"rho": 0.9}}, 3)
    {'coordcbam/model.16/rho': 0.9} 3
    """

    def __init__(self, loggers: Iterable[Any] = ()) -> None:
        if not isinstance(loggers, Iterable) or isinstance(loggers, (str, Mapping)):
            raise UsageError(f"loggers={shown(loggers)}: expected a list of loggers")
        self._on = list(loggers)
        self._blind = False
        for logger in self._on:
            if isinstance(logger, type):
                raise UsageError(
                    f"loggers: {logger.__name__} is a class: expected one made of it, such as "
                    f"{logger.__name__}(...)"
                )
            if not (callable(getattr(logger, "log", None)) or callable(logger)):
                raise UsageError(
                    f"loggers: {shown(logger)} has no log(values, step) and is no function; "
                    "coordcbam.monitor.loggers has TensorBoard, WandB, MLflow and Comet"
                )

    def scalars(self, readings: Mapping[str, Mapping[str, float]], step: int) -> None:
        """Send the numbers of a reading."""
        if self._on:
            values = scalars_of(readings)
            self._each(lambda logger: _log_with(logger)(values, step))

    def histograms(self, look: Callable[[], Mapping[str, Mapping[str, Tensor]]], step: int) -> None:
        """Send the gates that ``look()`` finds; it is asked only if a logger takes histograms."""
        if self._blind or not any(hasattr(logger, "histograms") for logger in self._on):
            return
        try:
            values = histograms_of(look())
        except Exception as error:
            self._blind = True
            told = said(error, kind=True)
            _log.warning("no histograms of gates: the probe failed: %s", told)
            return
        self._each(lambda logger: _call(logger, "histograms", _copied(values), step))

    def pictures(self, folder: Path, step: int) -> None:
        """Send the pictures that a run's folder has."""
        if not any(hasattr(logger, "picture") for logger in self._on):
            return
        for picture in read_pictures(folder, []):
            name, path = picture_name(picture), Path(folder) / picture.file
            if path.is_file():
                self._each(partial(_show, name=name, path=path, step=step))

    def close(self, status: str = "finished") -> None:
        """Close what can be closed, of a run that ended so; nothing is sent afterwards."""
        self._each(partial(_close, status=status))
        self._on.clear()

    def _each(self, send: Callable[[Any], None]) -> None:
        for logger in list(self._on):
            self._guarded(send, logger)

    def _guarded(self, send: Callable[[Any], None], logger: Any) -> None:
        try:
            send(logger)
        except Exception as error:
            self._on.remove(logger)
            name = getattr(logger, "__name__", type(logger).__name__)
            _log.warning("the logger %s is off: %s", name, said(error, kind=True))
            with contextlib.suppress(Exception):
                _close(logger, "failed")  # what it has is not all


def _log_with(logger: Any) -> Callable[[dict[str, float], int], Any]:
    log = getattr(logger, "log", None)
    if not callable(log):
        return lambda values, step: logger(dict(values), step)
    # By keyword: in W&B the step is not the second argument.
    return lambda values, step: log(dict(values), step=step)


def _call(logger: Any, method: str, *values: Any) -> None:
    if callable(getattr(logger, method, None)):
        getattr(logger, method)(*values)


def _close(logger: Any, status: str) -> None:
    """Call ``close``, with the status where it has a parameter for that."""
    close = getattr(logger, "close", None)
    try:
        told = {"status": status} if "status" in inspect.signature(close).parameters else {}  # type: ignore[arg-type]
    except (TypeError, ValueError):  # none, or one that is not written in Python
        told = {}
    if callable(close):
        close(**told)


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For one logger, which may write over what it gets."""
    return {name: value.clone() for name, value in values.items()}


def _show(logger: Any, name: str, path: Path, step: int) -> None:
    _call(logger, "picture", name, path, step)
