"""What Ultralytics' own functions are made to do besides, each by a function around one."""

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch

from coordcbam.block import deploy
from coordcbam.hosts.watched import LostBlocksError
from coordcbam.hosts.yolo.row import CoordCBAMLayer
from coordcbam.hosts.yolo.transfer import align, arranged, compare, renamed
from coordcbam.insert import (
    RECIPE_KEY,
    attached,
    blocks,
    commit_,
    copy_monitor_state_,
    rebuild,
    scalars,
)

LOGGER = logging.getLogger("ultralytics")


def rebuilding(build: Callable[..., Any]) -> Callable[..., Any]:
    """``parse_model``, which puts back what a recipe notes under our key."""

    @functools.wraps(build)
    def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        layers, save = build(d, *args, **kwargs)
        for spec in d.get(RECIPE_KEY, ()):
            # Paths are the network's; here is only its list of layers.
            places = [{**p, "path": p["path"].removeprefix("model.")} for p in spec["places"]]
            rebuild(layers, {**spec, "places": places})
        return layers, save

    return parse_model


def aligning(load: Callable[..., Any]) -> Callable[..., Any]:
    """``BaseModel.load``, with layers matched before tensors, and no block lost in silence."""

    @functools.wraps(load)
    def load_aligned(self: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        source = weights
        if isinstance(weights, dict):
            source = weights.get("ema") or weights["model"]
        here = attached(self)
        if not here and not attached(source):
            return load(self, weights, *args, **kwargs)
        with_rows = _has_rows(self) or _has_rows(source)
        index_of = align(source, self) if with_rows else None
        lost = [
            path
            for path in attached(source)
            if (path if index_of is None else renamed(path, index_of)) not in here
        ]
        if lost:
            raise LostBlocksError(
                f"the weights have coordcbam blocks at {', '.join(lost)}, this network has not: "
                "insert them with coordcbam.hosts.ultralytics.YOLO(...).insert(...), or take them "
                "out of the weights with coordcbam.remove_(model)"
            )
        ours = arranged(source, self) if with_rows else source
        loaded = load(self, ours, *args, **kwargs)
        if kwargs.get("verbose", True):
            LOGGER.info(f"coordcbam: {compare(source, self)}")
        return loaded

    return load_aligned


def _has_rows(network: Any) -> bool:
    return any(isinstance(layer, CoordCBAMLayer) for layer in getattr(network, "model", ()))


def committing(step: Callable[..., Any]) -> Callable[..., Any]:
    """``optimizer_step``, which closes the blocks' step too."""

    @functools.wraps(step)
    def optimizer_step(self: Any) -> None:
        step(self)
        commit_(self.model)
        if self.ema:
            # Not an average of averages, and with the counters, which Ultralytics does not average.
            copy_monitor_state_(self.model, self.ema.ema)

    return optimizer_step


def sparing(group: Callable[..., Any]) -> Callable[..., Any]:
    """``build_optimizer``, which lets no block's scalar decay."""

    @functools.wraps(group)
    def build_optimizer(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer = group(self, model, *args, **kwargs)
        _spare(optimizer, scalars(model))
        return optimizer

    return build_optimizer


def _spare(optimizer: Any, parameters: list[Any]) -> None:
    """Move ``parameters`` from the groups that decay to the norms', which never do."""
    ours = {id(parameter) for parameter in parameters}
    groups = optimizer.param_groups
    # Groups have had names since 8.4; before, the norms were the last that does not decay.
    norms = {g["lr"]: g for g in groups if g.get("param_group", "bn") == "bn" and not _decays(g)}
    for group in groups:
        if group.get("param_group") in ("weight", "muon") or _decays(group):
            moved = [p for p in group["params"] if id(p) in ours]
            group["params"] = [p for p in group["params"] if id(p) not in ours]
            if moved:
                norms[group["lr"]]["params"] += moved


def _decays(group: dict[str, Any]) -> bool:
    return bool(group.get("weight_decay"))


def deploying(export: Callable[..., Any]) -> Callable[..., Any]:
    """The exporter, which takes the blocks' inference form."""

    @functools.wraps(export)
    def export_deployed(self: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
        # A copy only where there are blocks: a stranger's model may not like it.
        if isinstance(model, torch.nn.Module) and blocks(model):
            model = deploy(model)
        with warnings.catch_warnings():
            # It means that statistics are the map's own, which is what is wanted.
            warnings.filterwarnings("ignore", ".*operator 'instance_norm' is set to train=True.*")
            return export(self, model, *args, **kwargs)

    return export_deployed


def restarting(reset: Callable[..., Any]) -> Callable[..., Any]:
    """``reset_weights``, which draws every layer of a block anew, also those that start at 0."""

    @functools.wraps(reset)
    def reset_weights(self: Any) -> Any:
        done = reset(self)
        for _, block in blocks(self.model):
            block.reset_parameters()
        return done

    return reset_weights
