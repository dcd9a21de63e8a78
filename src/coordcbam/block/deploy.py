"""The inference form: every constant baked into few weights, for export and other runtimes."""

import copy
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coordcbam._support.errors import shown
from coordcbam._support.permanent import permanent
from coordcbam.block.cbam import CoordCBAM
from coordcbam.block.options import OptionTypeError
from coordcbam.kernels.elementwise import ACTIVATIONS, GATES
from coordcbam.kernels.side import AxisWeights, ChannelWeights, GroupNorm, Linear, Norm


class _Line(NamedTuple):
    """``offset + slope * gate``: what a gate in [0, 1] stands for, or the logarithm of it."""

    slope: float
    offset: float

    def times(self, factor: float) -> "_Line":
        """The same line times a number."""
        return _Line(self.slope * factor, self.offset * factor)


@permanent
class DeployedCBAM(nn.Module):
    """``x * (rest + strength * rows * cols)``: an evaluating :class:`CoordCBAM`, constants baked.

    Temperature, alpha, the rescue's share, every beta and strength are inside the weights: a mixer
    and the projection are one, the two branches of the channel gate and its router run side by
    side, and a mask's factor is its last layer between two ends. It cannot be trained.

    ``forward`` takes and returns (B, C, H, W).
    """

    def __init__(self, block: CoordCBAM) -> None:
        super().__init__()
        side, alpha = block.side.settled().weights, float(block.alpha_eff())
        channel, coord = side.channel, side.coord
        self.channels, self.mid = block.channels, coord.refine.weight.shape[0]
        self.act, self.gate, self.coord_act = channel.act, channel.gate, coord.act
        self.routed = channel.router is not None
        self.clamp = None
        if side.shape.clamps:  # the ends of beta * rows * cols
            self.clamp = tuple(end - (1.0 - side.shape.beta) for end in side.shape[1:])
        self.beta, self.keep, strength = side.shape.beta, 1.0 - alpha, alpha / channel.unit
        line, self.log_channel = _channel_line(channel)
        # What multiplies both terms of 1 - beta + beta * rows * cols goes into the channel factor,
        # and what multiplies one of them into the columns.
        ratio, unit = self.beta, 1.0
        share = strength * (1.0 - self.beta)
        self.joined = self.clamp is None and self.log_channel == 0.0 and share > 1e-3
        if self.joined:
            line, unit, ratio = line.times(share), share, self.beta / (1.0 - self.beta)
        self.line, self.strength = line, strength
        rows, self.row_ends = _axis("h", coord.rows, coord.space, unit, 1.0)
        cols, self.col_ends = _axis("w", coord.cols, coord.space, unit, ratio)
        self.log_coord = 0.0
        if coord.space == "log":
            assert coord.scale_max is not None  # the options demand it in this space
            self.log_coord = 0.5 * math.log(coord.scale_max)
        self.norms = [self._keep_norm(i, n) for i, n in enumerate((coord.norm, coord.refine_norm))]
        for name, layer in {
            **_channel_layers(channel),
            **rows,
            **cols,
            "refine": coord.refine,
        }.items():
            weight = layer.weight if layer.weight.dim() == 4 else layer.weight[..., None, None]
            self._keep(f"{name}_weight", weight)
            self._keep(f"{name}_bias", layer.bias)
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """The attended map, (B, C, H, W)."""
        row_mean, row_max = x.mean(dim=3, keepdim=True), x.amax(dim=3, keepdim=True)
        col_mean, col_max = x.mean(dim=2, keepdim=True), x.amax(dim=2, keepdim=True)
        # Along the last axis, where runtimes are fast.
        mean, peak = col_mean.mean(dim=3, keepdim=True), col_max.amax(dim=3, keepdim=True)
        channel = self._channel(torch.cat([mean, peak], dim=1))
        rows, cols = self._coordinates(
            (row_mean + row_max) * channel, (col_mean + col_max) * channel
        )
        if self.joined:
            return x * (channel + self.keep + (channel * rows) * cols)
        channel = self.strength * channel
        rest = self.keep + (1.0 - self.beta) * channel
        if self.clamp is not None:
            return x * (rest + channel * (rows * cols).clamp(*self.clamp))
        return x * (rest + (channel * rows) * cols)

    def after(self, inputs: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        """What a layer gives to which the block was attached, and now this."""
        attended: Tensor = self(output)
        return attended

    def _channel(self, looked: Tensor) -> Tensor:
        """The channel's factor, (B, C, 1, 1), of means and maxima, (B, 2 * C, 1, 1)."""
        hidden = ACTIVATIONS[self.act](self._conv("hidden", looked))
        if self.routed:
            # The router's own hidden units are among the others where they act alike.
            own = hidden if self.act == "relu" else torch.relu(self._conv("look", looked))
            hidden = hidden * torch.sigmoid(self._conv("router", own))
        gate = GATES[self.gate](self._conv("out", hidden))
        factor = self.line.slope * gate + self.line.offset
        return torch.exp(self.log_channel * factor) if self.log_channel else factor

    def _coordinates(self, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of rows and columns, (B, C, H, 1) and (B, C, 1, W)."""
        act = F.hardswish if self.coord_act == "hswish" else ACTIVATIONS[self.coord_act]
        lines = [
            self._conv("h_into", self._tapped("h", h)),
            self._conv("w_into", self._tapped("w", w)),
        ]
        mid = torch.cat([lines[0], lines[1].transpose(2, 3)], dim=2)
        mid = act(self._normed(0, mid))
        mid = act(self._normed(1, self._conv("refine", mid)))
        h, w = torch.split(mid, [h.shape[2], w.shape[3]], dim=2)
        rows = self._conv("h_head", h).clamp(*self.row_ends)
        cols = self._conv("w_head", w.transpose(2, 3)).clamp(*self.col_ends)
        if self.log_coord:
            return torch.exp(self.log_coord * rows), torch.exp(self.log_coord * cols)
        return rows, cols

    def _tapped(self, axis: str, profile: Tensor) -> Tensor:
        weight = getattr(self, f"{axis}_taps_weight")
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return F.conv2d(profile, weight, padding=padding, groups=self.channels)

    def _normed(self, index: int, x: Tensor) -> Tensor:
        groups, eps = self.norms[index]
        weight, bias = (getattr(self, f"norm{index}_{part}") for part in ("weight", "bias"))
        if groups == 0:
            return x
        if groups == self.mid:  # one operation in every runtime
            return F.instance_norm(x, weight=weight, bias=bias, eps=eps)
        return F.group_norm(x, groups, weight, bias, eps)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        self.register_buffer(name, None if tensor is None else tensor.detach().clone())

    def _keep_norm(self, index: int, norm: Norm | None) -> tuple[int, float]:
        """Groups and eps; no groups where nothing is normalised."""
        group = norm if isinstance(norm, GroupNorm) else None
        self._keep(f"norm{index}_weight", None if group is None else group.weight)
        self._keep(f"norm{index}_bias", None if group is None else group.bias)
        return (0, 0.0) if group is None else (group.groups, group.eps)

    def extra_repr(self) -> str:
        """Width."""
        return f"{self.channels}"


@torch.no_grad()
def deploy(model: nn.Module) -> nn.Module:
    """A copy for inference in which every block is a :class:`DeployedCBAM`; in eval mode.

    A block with a spatial gate, or with a channel factor that may be negative (beta_ca > 1), stays
    as it is; so does one with layers that are not its own.

    Args:
        model: a block or any module with blocks inside; it is not changed.

    Raises:
        OptionTypeError: not a module.

    >>> from coordcbam import CoordCBAM
    >>> block, x = CoordCBAM(16).eval(), torch.randn(1, 16, 8, 8)
    >>> torch.allclose(deploy(block)(x), block(x), atol=1e-5)
    True
    """
    if not isinstance(model, nn.Module):
        raise OptionTypeError(f"deploy({shown(model)}): expected an nn.Module")
    copied = copy.deepcopy(model).eval()
    if isinstance(copied, CoordCBAM):
        return _deployed(copied)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, CoordCBAM):
                setattr(parent, name, _deployed(child))
    return copied


def _deployed(block: CoordCBAM) -> nn.Module:
    side = block.side
    if side.gates_places or side.signed or side.opaque is not None or block.bypassed:
        return block
    return DeployedCBAM(block)


def _channel_line(weights: ChannelWeights) -> tuple[_Line, float]:
    """The channel's factor of its gate, and the logarithm of its base if the line is a power."""
    if weights.beta is None:
        return _Line(1.0, 0.0), 0.0
    if weights.space == "log":
        return _Line(2.0, -1.0), math.log(1.0 + weights.beta)
    return _Line(weights.beta * (2.0 if weights.space == "lin" else 1.0), 1.0 - weights.beta), 0.0


def _channel_layers(weights: ChannelWeights) -> dict[str, Linear]:
    """Both branches and the router as layers over means and maxima together."""
    fc1, fc2, router = weights.fc1, weights.fc2, weights.router
    units = fc1.weight.shape[0]
    zero = fc1.weight.new_zeros
    apart = torch.zeros_like(fc1.weight)
    pairs = [(fc1.weight, apart), (apart, fc1.weight)]
    hidden = torch.cat([torch.cat(pair, dim=1) for pair in pairs])
    bias = zero(units) if fc1.bias is None else fc1.bias
    biases, ends = torch.cat([bias, bias]), torch.cat([fc2.weight, fc2.weight], dim=1)
    branches = 1.0 if router else 2.0  # of weights that add up to 1, or of 1 each
    layers = {}
    if router:
        first, last = router
        looks = first.weight.shape[0]
        assert first.bias is not None
        assert last.bias is not None
        spread = (last.weight[0] - last.weight[1]) / (weights.router_temperature or 1.0)
        lean = (last.bias[0] - last.bias[1]) / (weights.router_temperature or 1.0)
        # A softmax of two is a sigmoid of their difference, here one for every hidden unit.
        sign = torch.cat([spread.new_ones(units), -spread.new_ones(units)])
        if weights.act == "relu":
            hidden, biases = torch.cat([hidden, first.weight]), torch.cat([biases, first.bias])
            sign, ends = (
                torch.cat([sign, zero(looks)]),
                torch.cat([ends, zero(ends.shape[0], looks)], 1),
            )
            spread = torch.cat([zero(2 * units), spread])
        else:
            layers["look"] = first
        layers["router"] = Linear(sign[:, None] * spread, sign * lean)
    out = None if fc2.bias is None else branches * fc2.bias / weights.temperature
    layers |= {"hidden": Linear(hidden, biases), "out": Linear(ends / weights.temperature, out)}
    return layers


def _axis(
    name: str, weights: AxisWeights, space: str, unit: float, ratio: float
) -> tuple[dict[str, Linear], tuple[float, float]]:
    """One axis's layers, and the ends of its factor.

    Args:
        name: "h" or "w".
        weights: of this axis.
        space: what a mask stands for.
        unit: the number that is in the channel's factor, so that it comes out of the profile.
        ratio: multiplies the factor.
    """
    taps = 0.5 * weights.taps / unit
    (into,) = weights.into  # settled weights are merged
    a = float(weights.strength)
    line = {"gate": _Line(a, 1.0 - a), "lin": _Line(2.0 * a, 1.0 - a), "log": _Line(2.0 * a, -a)}
    slope, offset = line[space].times(ratio)
    bias = weights.head.bias
    centre = 0.5 * slope + offset
    head = Linear(
        weights.head.weight * (slope / 6.0),
        taps.new_full(taps.shape[:1], centre) + (0.0 if bias is None else bias * (slope / 6.0)),
    )
    layers = {
        f"{name}_taps": Linear(
            taps[:, None, :, None] if name == "h" else taps[:, None, None], None
        ),
        f"{name}_into": into,
        f"{name}_head": head,
    }
    return layers, (offset, offset + slope)
