"""Put the monitor and the target rescue around blocks that are already in a model."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from coordcbam._support.errors import shown
from coordcbam._support.permanent import permanent
from coordcbam.block.guard import Guard
from coordcbam.block.options import OptionTypeError, unknown_option
from coordcbam.insert.attach import attach, check_model, detach, has_block, like_of
from coordcbam.insert.plan import PlaceError, Places, chosen
from coordcbam.insert.recipe import SPEC_VERSION, checked_places, note
from coordcbam.insert.training import commit_


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class Guarded:
    """One guarded block: its path and class, and after a calibration what it keeps and may do."""

    path: str
    layer: str
    keeps: float | None  # <x, y> / <x, x>; None without a calibration
    alpha_eff: float | None


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class Guarding:
    """What :func:`guard_` did; printing it gives a table."""

    rows: tuple[Guarded, ...]
    options: dict[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        """Plain data from which ``guard_(model, at=spec)`` sets up the same guards."""
        places = [{"path": row.path} for row in self.rows]
        return {"version": SPEC_VERSION, "places": places, "guard": dict(self.options)}

    def __str__(self) -> str:
        """The rows as an aligned table."""
        head = ("layer", "path", "keeps", "alpha_eff")
        body = [(r.layer, r.path, _number(r.keeps), _number(r.alpha_eff)) for r in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in (head, *body)
        )


def guard_(
    model: nn.Module,
    at: Places | Mapping[str, Any],
    *,
    r_min: float = 0.9,
    calibrate: Any = None,
    watch: bool = False,
    r_max: float | None = None,
    momentum: float = 0.95,
) -> Guarding:
    """Guard each shape-preserving block that ``at`` names, in place; ``remove_`` undoes it.

    No key of the model changes, and no object of it: a guard is a child of the block it guards.

    Args:
        model: any module.
        at: as for :func:`plan`, or the ``spec`` of an earlier call.
        r_min: what is kept of the signal at least, in (0, 1).
        watch: measure, and never act.
        r_max: what an output may reach at most, above 1; None leaves amplification alone.
        momentum: of each guard's average, in (0, 1).
        calibrate: a batch (or a tuple of arguments) to call ``model`` with, once, in eval mode and
            without gradients: the guards then hold from the start, each as the ones before it let
            the signal through. Without it, a guard acts from the first training batch on.

    Raises:
        PlaceError: a place that does not exist or cannot be guarded.
        OptionTypeError, OptionValueError: naming value and rule.
        InputError: a block whose output has not its input's shape (found by ``calibrate``).

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout2d())
    >>> print(guard_(model, "1"))
    layer      path  keeps  alpha_eff
    Dropout2d  1         –          –
    """
    check_model(model)
    options: dict[str, Any] = {"r_min": r_min, "watch": watch, "r_max": r_max, "momentum": momentum}
    if isinstance(at, Mapping):
        options = _options_of(at)
        layers = {place["path"]: layer for place, layer in checked_places(model, at)}
    else:
        layers = _guardable(model, at)
    guards = {
        path: Guard(**options).to(**like_of(layer, model)).train(layer.training)
        for path, layer in layers.items()
    }
    for path, layer in layers.items():
        attach(layer, guards[path])
    if calibrate is not None:
        try:
            _calibrate(model, list(guards.values()), calibrate)
        except BaseException:
            for layer in layers.values():
                detach(layer)
            raise
    known = calibrate is not None
    rows = tuple(_row(path, layer, guards[path], known=known) for path, layer in layers.items())
    done = Guarding(rows=rows, options=options)
    note(model, done.spec)
    return done


def _options_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a stored spec, by the names that a guard knows."""
    options, known = spec.get("guard"), ("r_min", "watch", "r_max", "momentum")
    if not isinstance(options, Mapping):
        raise OptionTypeError(f"spec['guard']={shown(options)}: expected a mapping of options")
    for name in options:
        if name not in known:
            raise unknown_option(name, known)
    return dict(options)


def _guardable(model: nn.Module, at: Places) -> dict[str, nn.Module]:
    """The layers that ``at`` names, by path; each must be able to carry a guard."""
    layers = chosen(model, at)
    for path, layer in layers.items():
        if has_block(layer):
            raise PlaceError(f"{path} has a block already: remove_(model) takes it out")
        if isinstance(layer, nn.Sequential):
            raise PlaceError(
                f"{path} is a Sequential, which would run the guard as one of its layers: replace "
                "it with Guard(it), or name the layer in it that is to be guarded"
            )
    return layers


def _calibrate(model: nn.Module, guards: list[Guard], batch: Any) -> None:
    with _in_eval(model), torch.no_grad():
        try:
            for guard in guards:
                guard.calibrating = True
            model(*batch) if isinstance(batch, tuple) else model(batch)
        finally:
            for guard in guards:
                guard.calibrating = False
    commit_(model)


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _row(path: str, layer: nn.Module, guard: Guard, *, known: bool) -> Guarded:
    if not known or not guard.updates:
        return Guarded(path=path, layer=type(layer).__name__, keeps=None, alpha_eff=None)
    keeps = guard.r_ema.item()
    alpha_eff = guard.alpha_eff().item()
    return Guarded(path=path, layer=type(layer).__name__, keeps=keeps, alpha_eff=alpha_eff)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
