"""A copy of the model with blocks on trial behind some of its layers; the model is not touched."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from coordcbam._support.errors import UsageError, said
from coordcbam.insert import Row, attached, plan, remove_
from coordcbam.insert.attach import like_of
from coordcbam.insert.making import make
from coordcbam.insert.plan import Places
from coordcbam.preflight.candidates import Candidate

# Not insert's own name: what a layer has already stays, and the block on trial comes after it.
KEY = "cctrial"


# From what a model returns to the part of it that is compared.
Outputs: TypeAlias = Callable[[Any], Any]


def everything(found: Any) -> Any:
    """All that a model returns."""
    return found


class Trial(NamedTuple):
    """The copy, the blocks on trial by the paths of their layers, and what is compared of it."""

    model: nn.Module
    blocks: dict[str, nn.Module]
    outputs: Outputs = everything


class BlockError(UsageError):
    """A block on trial that does not run at its place."""


def tried(where: str, layer: nn.Module, args: Any, output: Tensor) -> Tensor:  # noqa: ARG001
    """The forward hook: the layer's output, through the block on trial.

    Raises:
        BlockError: a block that fails, or makes another shape; ``where`` names both.
    """
    try:
        attended: Tensor = getattr(layer, KEY)(output)
    except Exception as error:
        raise BlockError(f"{where} does not run on {tuple(output.shape)}: {said(error)}") from error
    if attended.shape != output.shape:
        raise BlockError(f"{where} makes {tuple(attended.shape)} of {tuple(output.shape)}")
    return attended


def places_of(model: nn.Module, at: Places, inputs: Any) -> tuple[tuple[Row, ...], list[str]]:
    """The rows of a plan, by the rules of ``insert_``, and which of them have a block already.

    Raises:
        PlaceError: a place that does not exist or cannot carry a block.
    """
    bare = copied(model)
    before = attached(bare)
    remove_(bare)
    rows = plan(bare, at, inputs=inputs).rows
    return rows, [row.path for row in rows if row.path in before]


def trial(
    model: nn.Module,
    rows: Mapping[str, int],
    of: Candidate,
    seed: int,
    outputs: Outputs = everything,
) -> Trial:
    """A copy of ``model`` in eval mode, with a block drawn with ``seed`` behind each layer.

    Args:
        model: what is copied.
        rows: the channels of each place, by path.
        of: what is tried; of none an ``nn.Identity``, so that a hook is all that there is.
        seed: of the blocks' weights; the caller keeps the state of the generator.
        outputs: what is compared.
    """
    made, blocks = copied(model).eval(), {}
    torch.manual_seed(seed)
    for path, channels in rows.items():
        layer = made.get_submodule(path)
        block: nn.Module = nn.Identity()
        if of.what is not None:
            block = make(of.what, channels, monitor=False)
        blocks[path] = block.to(**like_of(layer, made)).eval()
        layer.add_module(KEY, blocks[path])
        layer.register_forward_hook(partial(tried, f"block {of.name!r} at {path!r}"))
    return Trial(made, blocks, outputs)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        UsageError: a model that cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UsageError(f"{type(model).__name__} cannot be copied: {said(error)}") from None


def as_it_trains(model: nn.Module) -> nn.Module:
    """``model`` in train mode, but for what looks at other samples or draws: norms and dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, (_BatchNorm, _DropoutNd)):
            module.eval()
    return model


def called(model: nn.Module, batch: Any) -> Any:
    """What ``model`` makes of a tensor, or of a tuple of arguments."""
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def tensors_of(found: Any) -> list[Tensor]:
    """Every floating tensor in an output of tuples, lists, mappings and dataclasses, in order.

    >>> [each.item() for each in tensors_of({"a": (torch.ones(()), 3), "b": [torch.zeros(())]})]
    [1.0, 0.0]
    """
    if isinstance(found, Tensor):
        return [found] if found.is_floating_point() else []
    if isinstance(found, Mapping):
        found = list(found.values())
    elif dataclasses.is_dataclass(found):
        found = [getattr(found, field.name) for field in dataclasses.fields(found)]
    if isinstance(found, (list, tuple)):
        return [tensor for each in found for tensor in tensors_of(each)]
    return []
