"""Fold backwards: from the gradients of the side nets' weights to those of the layers' tensors."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from coordcbam.block.channel import ChannelGate
from coordcbam.block.coord import CoordGate
from coordcbam.block.fold import NORMS, folded, named_tensors
from coordcbam.kernels.side import leaves

_Gradients: TypeAlias = Mapping[str, Tensor]


def unfolded(
    channel: ChannelGate, coord: CoordGate, unit: float, tensors: Sequence[Tensor], by: _Gradients
) -> list[Tensor | None]:
    """Gradients of the tensors that :func:`.fold.folded` has merged, in its order.

    Args:
        channel: the channel gate.
        coord: the coordinate gates.
        unit: divides the channel's factor.
        tensors: what the weights were made of; None for those that want no gradient.
        by: gradients of the weights, by the names of :func:`coordcbam.kernels.side.leaves`.
    """
    if any(isinstance(getattr(coord, name), nn.modules.batchnorm._BatchNorm) for name in NORMS):
        return _by_autograd(channel, coord, unit, tensors, by)
    named = dict(zip(named_tensors(channel, coord), tensors, strict=True))
    found = _channel(channel, named, by) | _coord(coord, named, by)
    return [
        found[name].view_as(tensor) if tensor.requires_grad else None
        for name, tensor in named.items()
    ]


def _by_autograd(
    channel: ChannelGate, coord: CoordGate, unit: float, tensors: Sequence[Tensor], by: _Gradients
) -> list[Tensor | None]:
    """The same for any layers, such as a batch norm that evaluates, which the weights contain."""
    stand_ins = [t.detach().requires_grad_(t.requires_grad) for t in tensors]
    with torch.enable_grad():
        made = leaves(folded(channel, coord, unit, stand_ins, merge=True))
    reached = {name: leaf for name, leaf in made.items() if leaf.requires_grad}
    grads = iter(
        torch.autograd.grad(
            list(reached.values()),
            [t for t in stand_ins if t.requires_grad],
            [by[name] for name in reached],
            allow_unused=True,
        )
    )
    return [next(grads) if t.requires_grad else None for t in stand_ins]


def _channel(gate: ChannelGate, named: _Gradients, by: _Gradients) -> dict[str, Tensor]:
    found = _renamed(by, {"fc1": "fc1", "fc2": "fc2", "first": "router", "last": "router_out"})
    raw = named["temperature"]
    if raw.requires_grad:
        leaf = raw.detach().requires_grad_()
        with torch.enable_grad():
            made = gate.temperature(leaf, leaf)
        found["temperature"] = torch.autograd.grad(made, leaf, by["temperature"])[0]
    return found


def _coord(coord: CoordGate, named: _Gradients, by: _Gradients) -> dict[str, Tensor]:
    same = {"refine": "shared_bottleneck_refine", "norms.0": NORMS[0], "norms.1": NORMS[1]}
    found = _renamed(
        by, same | {f"axes.{i}.head": f"{axis}_attention_head" for i, axis in enumerate("hw")}
    )
    reach = coord.config.dilation
    project = named["shared_bottleneck_proj.weight"].detach().flatten(1)
    by_project, by_bias = torch.zeros_like(project), None
    for i, axis in enumerate("hw"):
        mixer, mixer_bias = (named.get(f"{axis}_channel_mixer.{p}") for p in ("weight", "bias"))
        weight, bias = by[f"axes.{i}.into.weight"], by.get(f"axes.{i}.into.bias")
        assert mixer is not None  # a convolution has a weight
        by_project.addmm_(weight, mixer.detach().flatten(1).t())
        found[f"{axis}_channel_mixer.weight"] = project.t() @ weight
        if bias is not None:
            by_bias = bias if by_bias is None else by_bias + bias
            if mixer_bias is not None:
                by_project.addr_(bias, mixer_bias.detach())
                found[f"{axis}_channel_mixer.bias"] = project.t() @ bias
        taps = by[f"axes.{i}.taps"]
        found[f"{axis}_local_dw.weight"] = taps[:, reach - 1 : reach + 2].contiguous()
        found[f"{axis}_dilated_dw.weight"] = taps[:, ::reach].contiguous()
        strength = torch.sigmoid(named[f"alpha_{axis}_raw"].detach())
        found[f"alpha_{axis}_raw"] = by[f"axes.{i}.strength"] * strength * (1.0 - strength)
    found["shared_bottleneck_proj.weight"] = by_project
    if by_bias is not None:
        found["shared_bottleneck_proj.bias"] = by_bias
    return found


def _renamed(by: _Gradients, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The gradients of layers that are weights as they are."""
    return {
        f"{name}.{part}": by[f"{leaf}.{part}"]
        for leaf, name in names.items()
        for part in ("weight", "bias")
        if f"{leaf}.{part}" in by
    }
