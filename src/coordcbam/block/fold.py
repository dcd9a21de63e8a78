"""From the layers' tensors to the weights of the fast side nets, differentiably."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coordcbam.block.channel import ChannelGate
from coordcbam.block.config import ChannelConfig, CoordConfig
from coordcbam.block.coord import CoordGate
from coordcbam.kernels.passes import Shape
from coordcbam.kernels.side import (
    AxisWeights,
    ChannelWeights,
    CoordWeights,
    GroupNorm,
    Linear,
    Norm,
    SideWeights,
)

NORMS = ("shared_bottleneck_norm", "shared_bottleneck_refine_norm")
_PARTS = ("local_dw", "dilated_dw", "channel_mixer", "attention_head")
_LAYERS = (
    "shared_bottleneck_proj",
    "shared_bottleneck_refine",
    *(
        f"{axis}_{part}"
        for axis in "hw"
        for part in ("local_dw", "dilated_dw", "channel_mixer", "attention_head")
    ),
)
_STRENGTHS = ("alpha_h_raw", "alpha_w_raw")
_Named: TypeAlias = dict[str, Tensor]
_Batch: TypeAlias = nn.modules.batchnorm._BatchNorm


def tensors_of(channel: ChannelGate, coord: CoordGate) -> tuple[Tensor, ...]:
    """What :func:`folded` makes the weights of, in its order."""
    return tuple(tensor for _, tensor in _named(channel, coord))


def named_tensors(channel: ChannelGate, coord: CoordGate) -> dict[str, Tensor]:
    """The same, by the names of their layers."""
    return dict(_named(channel, coord))


def shape_of(config: CoordConfig) -> Shape:
    """How the coordinate factors make the gain; without a clamp that no mask can reach."""
    low, high = float("-inf"), float("inf")
    if config.space == "log":  # its reach is scale_max by construction
        return Shape(1.0, low, high)
    beta = 1.0 if config.beta is None else config.beta
    # Two strengths below 1 make a product of at most 1, or of less than 4 in a centred space.
    most = 1.0 if config.space == "gate" else 4.0
    if config.scale_min is not None and config.scale_max is not None:
        least, largest = 1.0 - beta, 1.0 + beta * (most - 1.0)
        if not config.scale_min <= least <= largest <= config.scale_max:
            low, high = config.scale_min, config.scale_max
    return Shape(beta, low, high)


def folded(
    channel: ChannelGate,
    coord: CoordGate,
    unit: float,
    tensors: Sequence[Tensor],
    *,
    merge: bool,
) -> SideWeights:
    """Both gates as :class:`SideWeights`.

    Args:
        channel: the channel gate.
        coord: the coordinate gates; its spatial gate is not among the side nets.
        unit: divides the channel's factor.
        tensors: the layers' own, or others in their place, in the order of :func:`tensors_of`.
        merge: multiply each mixer with the projection: less work on many positions, more on few.
    """
    names = [name for name, _ in _named(channel, coord)]
    named = dict(zip(names, tensors, strict=True))
    return SideWeights(
        channel=_channel(channel, named, unit),
        coord=_coord(coord, named, merge=merge),
        shape=shape_of(coord.config),
    )


def _named(channel: ChannelGate, coord: CoordGate) -> Iterator[tuple[str, Tensor]]:
    """The tensors that the weights are made of, by name."""
    yield from _of_layer("fc1", channel.fc1)
    yield from _of_layer("fc2", channel.fc2)
    if channel.fusion_router is not None:
        yield from _of_layer("router", channel.fusion_router[0])
        yield from _of_layer("router_out", channel.fusion_router[2])
    yield "temperature", channel.raw_temperature
    modules = coord._modules
    for name in (*_LAYERS, *NORMS):
        layer = modules[name]
        assert layer is not None
        yield from _of_layer(name, layer)
    for name in _STRENGTHS:
        yield name, getattr(coord, name)


def _of_layer(name: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if type(layer) is nn.Identity:
        return
    for part in ("weight", "bias"):
        # The dictionary is what nn.Module itself looks into, at a tenth of the time.
        tensor = layer._parameters[part] if part in layer._parameters else getattr(layer, part)
        if tensor is not None:
            yield f"{name}.{part}", tensor
    if layer._buffers:
        for part in ("running_mean", "running_var"):
            tensor = layer._buffers.get(part)
            if tensor is not None:
                yield f"{name}.{part}", tensor


def _channel(gate: ChannelGate, named: _Named, unit: float) -> ChannelWeights:
    config: ChannelConfig = gate.config
    router = None
    if gate.fusion_router is not None:
        router = (_linear(named, "router"), _linear(named, "router_out"))
    return ChannelWeights(
        fc1=_linear(named, "fc1"),
        fc2=_linear(named, "fc2"),
        router=router,
        router_temperature=config.router_temperature,
        temperature=gate.temperature(named["fc1.weight"], named["temperature"]),
        act=config.act,
        gate=config.gate,
        beta=config.beta,
        space=config.space,
        unit=unit,
    )


def _coord(coord: CoordGate, named: _Named, *, merge: bool) -> CoordWeights:
    config: CoordConfig = coord.config
    project = _linear(named, "shared_bottleneck_proj")
    refine = _linear(named, "shared_bottleneck_refine")
    norm, refine_norm = (_norm(getattr(coord, name), named, name) for name in NORMS)
    if isinstance(norm, Linear):
        project, norm = _scaled(project, norm), None
    if isinstance(refine_norm, Linear):
        refine, refine_norm = _scaled(refine, refine_norm), None

    def axis(name: str) -> AxisWeights:
        mixer = _linear(named, f"{name}_channel_mixer")
        local, dilated = (named[f"{name}_{kind}_dw.weight"] for kind in ("local", "dilated"))
        return AxisWeights(
            taps=_taps(local, dilated, config.dilation),
            into=(_product(project, mixer),) if merge else (mixer, project),
            head=_linear(named, f"{name}_attention_head"),
            strength=torch.sigmoid(named[f"alpha_{name}_raw"]),
        )

    return CoordWeights(
        rows=axis("h"),
        cols=axis("w"),
        norm=norm,
        refine=refine,
        refine_norm=refine_norm,
        act=config.act,
        space=config.space,
        scale_max=config.scale_max,
    )


def _linear(named: _Named, name: str) -> Linear:
    """A 1x1 convolution's weights."""
    return Linear(named[f"{name}.weight"].flatten(1), named.get(f"{name}.bias"))


def _product(after: Linear, before: Linear) -> Linear:
    """The second of two linear layers applied to the first."""
    bias = after.bias
    if before.bias is not None:
        through = after.weight @ before.bias
        bias = through if bias is None else bias + through
    return Linear(after.weight @ before.weight, bias)


def _scaled(linear: Linear, by: Linear) -> Linear:
    """A linear layer with a diagonal one, (out,), behind it."""
    assert by.bias is not None
    bias = by.bias if linear.bias is None else by.bias + by.weight * linear.bias
    return Linear(by.weight[:, None] * linear.weight, bias)


def _taps(local: Tensor, dilated: Tensor, dilation: int) -> Tensor:
    """The sum of both depthwise taps as one row of taps, (C, 2 * dilation + 1)."""
    near, far = local.flatten(1), dilated.flatten(1)
    # Joined with zeros: a padding would not be folded into the weights of an ONNX graph.
    channels, rest = near.shape[0], near.new_zeros(near.shape[0], dilation - 1)
    gaps = near.new_zeros(channels, 3, dilation - 1)
    spread = torch.cat([far[..., None], gaps], dim=2).flatten(1)[:, : 2 * dilation + 1]
    return torch.cat([rest, near, rest], dim=1) + spread


def _norm(layer: nn.Module, named: _Named, name: str) -> Norm | Linear | None:
    """A norm as the side nets call it; a batch norm that evaluates is a diagonal layer."""
    weight, bias = named.get(f"{name}.weight"), named.get(f"{name}.bias")
    if isinstance(layer, nn.Identity):
        return None
    if isinstance(layer, nn.GroupNorm):
        return GroupNorm(groups=layer.num_groups, weight=weight, bias=bias, eps=layer.eps)
    assert isinstance(layer, _Batch)
    mean, variance = named.get(f"{name}.running_mean"), named.get(f"{name}.running_var")
    if layer.training or mean is None or variance is None:
        return _BatchNorm(layer, weight, bias)
    scale = (variance + layer.eps).rsqrt()
    scale = scale if weight is None else scale * weight
    return Linear(scale, (0.0 if bias is None else bias) - mean * scale)


class _BatchNorm:
    """A batch norm by the batch's own statistics, over (B, M, n).

    In three dimensions: PyTorch's CPU kernel takes some strides of a map that is one pixel wide for
    another layout, and gives wrong gradients (seen in 2.15).
    """

    def __init__(self, layer: _Batch, weight: Tensor | None, bias: Tensor | None) -> None:
        self._layer = layer
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        if isinstance(layer, nn.SyncBatchNorm):
            found: Tensor = layer(x)
            return found
        momentum, tracked = layer.momentum, layer.num_batches_tracked
        if layer.training and tracked is not None:
            tracked.add_(1)
            momentum = 1.0 / float(tracked) if momentum is None else momentum
        return F.batch_norm(
            x,
            layer.running_mean,
            layer.running_var,
            self._weight,
            self._bias,
            training=True,
            momentum=momentum or 0.0,
            eps=layer.eps,
        )
