"""What a run's files hold, as frozen dataclasses, and how ``run.json`` spells them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from coordcbam._support.errors import UsageError

FORMAT = 1
FOLDER = "coordcbam"
RUN, MONITOR, METRICS, EVENTS = "run.json", "monitor.csv", "metrics.csv", "events.jsonl"
STATUSES = ("running", "finished", "failed", "unknown")
ROW_COLUMNS = ("step", "epoch", "seconds", "block")


class NewerFormatError(UsageError):
    """A newer coordcbam wrote the run: neither read nor overwrite it."""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: other objects as text, non-finite numbers as ``"nan"``.

    Strict JSON has no NaN, and ``float("nan")`` reads the text back.

    >>> plain({"beta": (0.35, float("inf")), 3: ValueError})
    {'beta': [0.35, 'inf'], '3': "<class 'ValueError'>"}
    """
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(float(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    # A command line may hold bytes that are no UTF-8; they arrive as lone surrogates.
    return str(value).encode(errors="backslashreplace").decode()


@dataclass(frozen=True, kw_only=True)
class Place:
    """One block in the model: ``path`` is the name its monitor rows carry.

    >>> Place(path="model.16", channels=64, parameters=1234).channels
    64
    """

    path: str
    channels: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class MonitorRow:
    """One reading of one block: ``values`` by column name, ``seconds`` since the run began.

    ``line`` is its line in ``monitor.csv``, from 1, or 0 where it was not read from there.

    >>> MonitorRow(step=1, epoch=0, seconds=0.5, block="b", values={"T": 1.0}).values["T"]
    1.0
    """

    step: int
    epoch: int
    seconds: float
    block: str
    values: Mapping[str, float]
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something worth a line: ``kind`` is a short word, ``message`` a sentence.

    >>> Event(step=9, epoch=0, block="model.16", kind="rescue", message="active").kind
    'rescue'
    """

    step: int
    epoch: int
    block: str
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What ``run.json`` says about a run; ``status`` is running, finished or failed.

    ``started`` is an ISO 8601 time in UTC, ``result`` the final numbers by name, ``cost`` what the
    blocks add and the model has without them (``parameters``, ``parameters_model``, ``flops``,
    ``flops_model`` for one image of ``imgsz`` pixels), ``certificate`` what the blocks' config
    guarantees.

    Raises:
        UsageError: ``status`` is another word.

    >>> RunInfo(host="torch", places=(), config={}, versions={}, started="").to_dict()["format"]
    1
    """

    host: str
    places: tuple[Place, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str = ""
    started: str = field(default_factory=_now)
    status: str = "running"
    result: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    certificate: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            expected = ", ".join(repr(word) for word in STATUSES)
            raise UsageError(f"RunInfo.status={self.status!r}: expected one of {expected}")

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that ``run.json`` holds: JSON types only, with ``"format"``.

        >>> info = RunInfo(host="torch", places=(), config={}, versions={})
        >>> RunInfo.from_dict(info.to_dict()) == info
        True
        """
        known: dict[str, Any] = plain({name: getattr(self, name) for name in self._plain_names()})
        places = [
            {"path": place.path, "channels": place.channels, "parameters": place.parameters}
            for place in self.places
        ]
        return {"format": FORMAT, **known, "places": places}

    @classmethod
    def _plain_names(cls) -> list[str]:
        return [name for name in cls.__dataclass_fields__ if name != "places"]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "RunInfo":
        """The inverse of :meth:`to_dict`: unknown keys are ignored, absent ones defaulted.

        An absent ``started`` is ``""``: nobody knows when that run began.

        Raises:
            UsageError: a newer format than this version reads, or a field of another kind.

        >>> RunInfo.from_dict({"host": "torch", "colour": "red"}).host
        'torch'
        """
        try:
            version = int(raw.get("format", FORMAT))
            if version > FORMAT:
                raise NewerFormatError(
                    f"{RUN}: format {version}, expected {FORMAT} or older; upgrade coordcbam"
                )
            return cls(
                host=str(raw.get("host", "unknown")),
                places=tuple(_place(item) for item in raw.get("places", ())),
                config=dict(raw.get("config", {})),
                versions={str(k): str(v) for k, v in raw.get("versions", {}).items()},
                command=str(raw.get("command", "")),
                started=str(raw.get("started", "")),
                status=str(raw.get("status", "running")),
                result={str(k): float(v) for k, v in raw.get("result", {}).items()},
                cost={str(k): float(v) for k, v in raw.get("cost", {}).items()},
                certificate=dict(raw.get("certificate", {})),
                notes=tuple(str(note) for note in raw.get("notes", ())),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            text = f"{RUN}: expected the fields of RunInfo, got {type(error).__name__}: {error}"
            raise UsageError(text) from None


def _place(raw: Mapping[str, Any]) -> Place:
    return Place(
        path=str(raw["path"]),
        channels=int(raw.get("channels", 0)),
        parameters=int(raw.get("parameters", 0)),
    )
