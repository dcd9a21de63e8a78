"""The silent failures of a network with blocks, each measured."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from coordcbam.block import CoordCBAM, GuardedResidual, certify
from coordcbam.cli.checks.findings import Finding
from coordcbam.insert import RECIPE_KEY, blocks, label

SIDE = 128  # pixels of the probe
CLOSED, OPEN, STILL = 0.02, 0.98, 1e-4


def network_findings(network: nn.Module) -> list[Finding]:
    """Everything odd about the network's blocks; nothing where there are none and were none."""
    found = list(_lost(network))
    named = blocks(network)
    if not named:
        return found
    inputs, problem = _inputs(network)
    if problem:
        found.append(problem)
    for path, block in named:
        where = label(path)
        found += _numbers(where, block)
        if problem is None and path not in inputs:
            found.append(
                Finding(
                    what="the block never runs",
                    where=where,
                    measured="0 calls in a forward",
                    todo="its layer was replaced or lost its hook: remove_(model), insert again",
                )
            )
        elif isinstance(block, CoordCBAM) and path in inputs:
            found += _gates(where, block, inputs[path])
    return found


def _lost(network: nn.Module) -> Iterator[Finding]:
    """Places of the recipe at which there is no block."""
    here = {label(path) for path, _ in blocks(network)}
    recipe = vars(network).get("yaml")
    specs = recipe.get(RECIPE_KEY, ()) if isinstance(recipe, dict) else ()
    for place in (place for spec in specs for place in spec["places"]):
        if place["path"] not in here:
            yield Finding(
                what="the block is lost",
                where=place["path"],
                measured="in the recipe, not in the network",
                todo="train from a checkpoint that has it, or insert it again and train",
            )


@torch.no_grad()
def _inputs(network: nn.Module) -> tuple[dict[str, Tensor], Finding | None]:
    """What each block got in one forward of four unlike images, by path."""
    seen: dict[str, Tensor] = {}

    def note(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[path] = args[0].detach()

        return module.register_forward_pre_hook(hook)

    handles = []
    for path, block in blocks(network):
        # A guard is not called itself: the layer that it is attached to is.
        attached = not isinstance(block, CoordCBAM) and label(path) != path
        target = network.get_submodule(label(path)) if attached else block
        handles.append(note(path, target))
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    draw = torch.Generator().manual_seed(0)
    contrast = torch.tensor([0.1, 0.4, 0.7, 1.0]).view(4, 1, 1, 1)
    shape = (4, first.in_channels if first else 3, SIDE, SIDE)
    try:
        network(torch.rand(shape, generator=draw) * contrast)
    except Exception as error:  # a stranger's network may want anything
        text = (str(error) or type(error).__name__).splitlines()[0][:60]
        return seen, Finding(
            what="no forward could be run",
            where=type(network).__name__,
            measured=text,
            todo="calls and gates were not checked",
            note=True,
        )
    finally:
        for handle in handles:
            handle.remove()
    return seen, None


def _numbers(where: str, block: GuardedResidual) -> Iterator[Finding]:
    """What the block's own state tells without a forward."""
    state = [*block.named_parameters(), *block.named_buffers()]
    for name, tensor in state:
        if name != "stats" and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            yield Finding(
                what="not finite",
                where=f"{where} {name}",
                measured=f"{bad} of {tensor.numel()} numbers",
                todo="these weights are broken: go back to an earlier checkpoint",
            )
    if block.bypassed:
        yield Finding(
            what="the block is bypassed",
            where=where,
            measured="its output is its input",
            todo="it was saved inside bypass(model): set block.bypassed = False",
        )
    if not block.monitor:
        todo = "set block.monitor = True before training, to measure it"
        yield Finding(what="monitor off", where=where, measured="–", todo=todo, note=True)
    alpha, left = float(block.alpha(block.stats)), float(block.alpha_eff())
    if left < alpha * (1.0 - 1e-6):
        yield Finding(
            what="the rescue is active",
            where=where,
            measured=f"alpha_eff {left:.3f} < alpha {alpha:.3f}",
            todo="the block suppresses: see its rho in the run's report",
        )
    if block.targets and int(block.skipped):
        yield Finding(
            what="skipped steps",
            where=where,
            measured=f"{int(block.skipped)} of {int(block.skipped + block.updates)}",
            todo="batches were not finite or had no signal: look at the data, lower lr",
        )
    if isinstance(block, CoordCBAM):
        sure = certify(block.config)
        if sure.r_min is not None and not sure.rescue_can_fire:
            yield Finding(
                what="the rescue cannot fire",
                where=where,
                measured=f"every gain >= {sure.gain_min:.3f}, r_min {sure.r_min:.3f}",
                todo="raise r_min, or take BlockConfig.step3()",
                note=True,
            )


@torch.no_grad()
def _gates(where: str, block: CoordCBAM, x: Tensor) -> Iterator[Finding]:
    """Gates that do nothing: closed, open, or the same whatever the input."""
    trace = block.trace(x)
    gate = trace.channel.gate
    low, high = float(gate.min()), float(gate.max())
    last = [block.ca.fc2.weight, block.coord.h_attention_head.weight]
    if not any(bool(tensor.any()) for tensor in last):
        yield Finding(
            what="a fresh identity",
            where=where,
            measured="last layers at 0",
            todo="the block has not learned yet: train it",
            note=True,
        )
    elif high < CLOSED or low > OPEN:
        yield Finding(
            what=f"the channel gate is {'closed' if high < CLOSED else 'open'} everywhere",
            where=where,
            measured=f"gate in [{low:.3f}, {high:.3f}]",
            todo="it is saturated and learns no more: lower lr, train again",
        )
    elif float(gate.std(dim=0).max()) < STILL:
        yield Finding(
            what="the channel gate is constant",
            where=where,
            measured=f"spread over inputs {float(gate.std(dim=0).max()):.1e}",
            todo="the block is a fixed scale: compare with bypass(model)",
        )
    config, t = block.config.channel, float(trace.channel.temperature)
    ends = [end for end in (config.t_min, config.t_max) if end is not None]
    if config.learnable_temperature and any(abs(t - end) < 1e-3 * end for end in ends):
        yield Finding(
            what="the temperature is at its end",
            where=where,
            measured=f"T {t:.3f} of [{config.t_min}, {config.t_max}]",
            todo="widen ca_t_min, ca_t_max, or use ca_t_map='sigmoid'",
        )
