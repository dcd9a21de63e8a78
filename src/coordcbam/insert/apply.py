"""Insert blocks into a model in place, account for its tensors, and take the blocks out again."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from coordcbam._support.errors import UsageError, shown
from coordcbam._support.permanent import permanent
from coordcbam.block import BlockConfig, CoordCBAM, OptionTypeError
from coordcbam.insert.attach import attach, check_model, detach, has_block, like_of
from coordcbam.insert.foreign import Foreign, ForeignBlock
from coordcbam.insert.making import make
from coordcbam.insert.plan import Places, Plan, Row, plan, row_for
from coordcbam.insert.recipe import (
    FOREIGN_VERSION,
    SPEC_VERSION,
    checked_places,
    forget,
    note,
)


@permanent
@dataclasses.dataclass(frozen=True, kw_only=True)
class Insertion:
    """What an insertion did: its plan, and how many of the model's tensors are what they were."""

    plan: Plan
    kept: int
    total: int
    monitor: bool

    @property
    def spec(self) -> dict[str, Any]:
        """Plain dicts and numbers from which ``insert_(model, at=spec)`` rebuilds the blocks."""
        places = [{"path": row.path, "channels": row.channels} for row in self.plan.rows]
        block, monitor = self.plan.block, self.monitor
        if block is not None:
            version, what = FOREIGN_VERSION, {"block": block.to_dict()}
        else:
            version, what = SPEC_VERSION, {"config": self.plan.config.to_dict()}
        return {"version": version, "places": places, **what, "monitor": monitor}

    def __str__(self) -> str:
        """The plan's table and the count of tensors kept."""
        return f"{self.plan}\n{self.kept}/{self.total} tensors kept"


def insert_(
    model: nn.Module,
    at: Places | Mapping[str, Any],
    *,
    config: BlockConfig | None = None,
    inputs: Any = None,
    monitor: bool = True,
    block: str | type[nn.Module] | None = None,
    options: Mapping[str, Any] | None = None,
    r_min: float | None = None,
) -> Insertion:
    """Attach a block behind each layer that ``at`` names, in place.

    Everything is checked and built before the model is touched, so a failure leaves it as it was.

    Args:
        model: any module.
        at: as for :func:`plan`, or the ``spec`` of an earlier insertion, which needs no ``inputs``.
        config: the block's options; the default is ``BlockConfig.step3()``.
        inputs: what to call ``model`` with, as for :func:`plan`.
        monitor: whether the blocks measure the signal while they train.
        block: one that is not ours: ``"timm:cbam"``, ``"ultralytics:CBAM"`` (where its host file is
            imported), ``"package.module:Class"`` or a class, called with a width and ``options``.
        options: keyword arguments of that block.
        r_min: put a ``Guard`` around that block, which keeps this share of the signal.

    Raises:
        PlaceError: a place that does not exist or cannot carry a block.
        UsageError: a block that cannot be made or does not preserve shapes.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> print(insert_(model, "0", inputs=torch.zeros(1, 3, 8, 8)))
    layer   path  channels  parameters added
    Conv2d  0            8               928
    2/2 tensors kept
    """
    check_model(model)
    if not isinstance(monitor, bool):
        raise OptionTypeError(f"insert_.monitor={shown(monitor)}: expected True or False")
    if isinstance(at, Mapping):
        planned, monitor = _plan_of_spec(model, at)
    else:
        foreign = _foreign(block, options, r_min, config)
        planned = plan(model, at, config=config, inputs=inputs, block=foreign)
    before = _addresses(model)
    built = [_build(model, row, planned, monitor=monitor) for row in planned.rows]
    for layer, attention in built:
        attach(layer, attention)
    after = _addresses(model)
    kept = sum(after.get(key) == pointer for key, pointer in before.items())
    done = Insertion(plan=planned, kept=kept, total=len(before), monitor=monitor)
    note(model, done.spec)
    return done


def remove_(model: nn.Module) -> int:
    """Take every attached block and guard out again; the layers and their keys are as before.

    Returns:
        How many were removed.
    """
    check_model(model)
    layers = [module for module in model.modules() if has_block(module)]
    for layer in layers:
        detach(layer)
    forget(model)
    return len(layers)


def _addresses(model: nn.Module) -> dict[str, int]:
    """Where each tensor of the state lies; a module's extra state need not be one."""
    state = model.state_dict().items()
    return {key: value.data_ptr() for key, value in state if isinstance(value, torch.Tensor)}


def _foreign(
    block: Any, options: Mapping[str, Any] | None, r_min: float | None, config: BlockConfig | None
) -> Foreign | None:
    """The block that is not ours, if one is asked for."""
    if block is not None:
        if config is not None:
            raise UsageError("config and block: a config is for our block alone; give options")
        return Foreign.of(block, options, r_min)
    if options is not None or r_min is not None:
        raise UsageError("options and r_min are for a block that is not ours: give block, too")
    return None


def _build(
    model: nn.Module, row: Row, planned: Plan, *, monitor: bool
) -> tuple[nn.Module, CoordCBAM | ForeignBlock]:
    """A block for one row, on the layer's device, in its dtype and mode."""
    layer = model.get_submodule(row.path)
    made = make(planned.block or planned.config, row.channels, monitor=monitor)
    return layer, made.to(**like_of(layer, model)).train(layer.training)


def _plan_of_spec(model: nn.Module, spec: Mapping[str, Any]) -> tuple[Plan, bool]:
    """The plan that a stored spec stands for, checked against this model."""
    places = checked_places(model, spec)
    config, monitor = BlockConfig.from_dict(spec.get("config", {})), spec.get("monitor", True)
    if not isinstance(monitor, bool):
        raise OptionTypeError(f"spec['monitor']={shown(monitor)}: expected True or False")
    block = Foreign.from_dict(spec["block"]) if "block" in spec else None
    rows = tuple(
        row_for(place["path"], layer, place.get("channels"), config, block)
        for place, layer in places
    )
    return Plan(rows=rows, config=config, block=block), monitor
