"""The silent failures of a network with blocks: lost, never called, broken, not repeatable."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from coordcbam._support.errors import said
from coordcbam.block import CoordCBAM, Guard, GuardedResidual
from coordcbam.checks.block import kernel_findings, map_findings, state_findings
from coordcbam.checks.findings import Finding
from coordcbam.checks.repeatable import unrepeatable
from coordcbam.insert import (
    ForeignBlock,
    attached,
    attached_block,
    blocks,
    label,
    lost_places,
    switches,
)

SIDE = 128  # pixels of the probe
SHOWN = 5  # tensors that are named where many are broken

Args = tuple[Tensor, ...]


def network_findings(network: nn.Module) -> list[Finding]:
    """Everything odd about the network's blocks."""
    found = list(_lost(network))
    if not switches(network):
        if not attached(network):
            found.append(_note("no blocks of coordcbam in it", "an ordinary model", "insert some"))
        else:
            measured = f"{len(attached(network))} deployed"
            found.append(_note("blocks in the inference form", measured, "check the checkpoint"))
        return found
    found += [*_bypassed(network), *_broken(network)]
    inputs, problem = _inputs(network)
    found += [problem] if problem else _never_called(network, inputs)
    for path, block in blocks(network):
        where = label(path)
        found += state_findings(where, block)
        if isinstance(block, CoordCBAM):
            if path in inputs:
                found += map_findings(where, block, inputs[path][0])
            found += kernel_findings(where, block)
    for path, module in _not_ours(network):
        if path in inputs:
            found += unrepeatable(label(path), module, inputs[path])
    return found


def _note(what: str, measured: str, todo: str) -> Finding:
    return Finding(what=what, where="the model", measured=measured, todo=todo, note=True)


def _lost(network: nn.Module) -> Iterator[Finding]:
    for path in lost_places(network):
        yield Finding(
            what="the block is lost",
            where=path,
            measured="in the recipe, not in the network",
            todo="take a checkpoint that has it, or insert again and train",
        )


def _bypassed(network: nn.Module) -> Iterator[Finding]:
    for where in {label(path): None for path, block in switches(network) if block.bypassed}:
        yield Finding(
            what="the block is bypassed",
            where=where,
            measured="it is switched off",
            todo="it was saved inside bypass(model): set block.bypassed = False",
        )


def _broken(network: nn.Module) -> Iterator[Finding]:
    """Tensors that are not finite; another's buffer may hold infinities, as a mask does."""
    # NaN until a batch is measured, and in no checkpoint.
    spared = {f"{path}.stats".removeprefix(".") for path, _ in blocks(network)}
    bad = []
    for name, tensor in network.named_parameters():
        if not tensor.isfinite().all():
            bad.append((name, int((~tensor.isfinite()).sum()), tensor.numel()))
    for name, buffer in network.named_buffers():
        if name not in spared and buffer.isnan().any():
            bad.append((name, int(buffer.isnan().sum()), buffer.numel()))
    for name, count, total in bad[:SHOWN]:
        yield Finding(
            what="not finite",
            where=name,
            measured=f"{count} of {total} numbers",
            todo="these weights are broken: take an earlier checkpoint",
        )
    if bad[SHOWN:]:
        yield Finding(
            what="not finite",
            where="elsewhere",
            measured=f"{len(bad) - SHOWN} more tensors",
            todo="these weights are broken: take an earlier checkpoint",
        )


def _probed(network: nn.Module) -> dict[str, nn.Module]:
    """Who is called when a block is, by the block's path; for an attached guard, its layer."""
    return {
        path: network.get_submodule(label(path)) if _around_its_layer(module) else module
        for path, module in switches(network)
    }


def _around_its_layer(module: nn.Module) -> bool:
    return isinstance(module, Guard) and module.inner is None


def _not_ours(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Attention that is not ours, inside a foreign block or a guard, by that one's path."""
    for path, module in switches(network):
        if _around_its_layer(module):
            yield path, network.get_submodule(label(path))
        elif isinstance(module, (Guard, ForeignBlock)):
            inner = module.inner
            if inner is not None and not isinstance(inner, GuardedResidual):
                yield path, inner


def _inputs(network: nn.Module) -> tuple[dict[str, Args], Finding | None]:
    """What each block got in one forward of four unlike images, by path."""
    seen: dict[str, Args] = {}

    def noting(path: str) -> Any:
        def hook(_module: nn.Module, args: Args) -> None:
            seen[path] = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)

        return hook

    handles = [
        module.register_forward_pre_hook(noting(path)) for path, module in _probed(network).items()
    ]
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    draw = torch.Generator().manual_seed(0)
    contrast = torch.tensor([0.1, 0.4, 0.7, 1.0]).view(4, 1, 1, 1)
    shape = (4, first.in_channels if first else 3, SIDE, SIDE)
    try:
        with torch.no_grad():
            network(torch.rand(shape, generator=draw) * contrast)
    except Exception as error:  # a stranger's network may want anything
        told = said(error)[:60]
        return seen, _note("no forward could be run", told, "calls and gates were not checked")
    finally:
        for handle in handles:
            handle.remove()
    return seen, None


def _never_called(network: nn.Module, inputs: dict[str, Args]) -> Iterator[Finding]:
    """Blocks that the forward left out; for an attached guard, those whose hook is gone."""
    told: set[str] = set()
    for path in _probed(network):
        layer = network.get_submodule(label(path))
        hooked = label(path) == path or attached_block in layer._forward_hooks.values()
        if (path not in inputs or not hooked) and label(path) not in told:
            told.add(label(path))
            yield Finding(
                what="the block never runs",
                where=label(path),
                measured="0 calls in a forward",
                todo="its layer lost its hook or is not used: remove_(model), insert again",
            )
