"""The block: channel gate, coordinate gates and guarded residual mix."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coordcbam._support.permanent import permanent
from coordcbam.block.certificate import certify
from coordcbam.block.channel import ChannelGate
from coordcbam.block.checks import check_channels, check_input
from coordcbam.block.config import BlockConfig, RescueConfig, checked_config
from coordcbam.block.coord import CoordGate
from coordcbam.block.form import KEY, form_of, refusal
from coordcbam.block.mix import GuardedResidual
from coordcbam.block.ranges import calibration, resolved_r_min
from coordcbam.block.side import Side
from coordcbam.block.stats import Stats, describe, wide
from coordcbam.kernels import Attended, attend
from coordcbam.kernels.elementwise import soften


@permanent
class UnreachableRescueWarning(UserWarning):
    """A rescue of ours that no reachable gain can set off."""


@permanent
class ChannelMaps(NamedTuple):
    """The channel gate as it was for one batch."""

    gate: Tensor  # (B, C, 1, 1), in [0, 1]
    fusion: Tensor | None  # (B, 2): router weights of mean and maximum; None when summed
    temperature: Tensor  # ()


@permanent
class CoordMaps(NamedTuple):
    """The coordinate masks as they were for one batch."""

    rows: Tensor  # (B, C, H, 1), in [0, 1]
    cols: Tensor  # (B, C, 1, W), in [0, 1]


@permanent
class Trace(NamedTuple):
    """One forward with everything it went through; all tensors, nothing copied to the host."""

    out: Tensor  # (B, C, H, W)
    channel: ChannelMaps
    coord: CoordMaps
    stats: Stats


@permanent
class CoordCBAM(GuardedResidual):
    """``out = x + alpha_eff * (y - x)``, y being x times channel, row and column gates.

    Args:
        channels: width C of the map, 1 or more.
        config: options; the default is ``BlockConfig.step3()``.
        device: where the block is, as any layer's.
        dtype: of its weights.

    Raises:
        OptionTypeError, OptionValueError: naming field, value and rule.

    A fresh block of step 3 is the exact identity. ``forward`` takes and returns (B, C, H, W); the
    result is always a tensor. A wrong input raises :class:`InputError` with what was given and what
    was expected.

    Source: notebook sections 2 and 4; CBAM, arXiv 1807.06521; Coordinate Attention, arXiv
    2103.02907.

    >>> import torch
    >>> block = CoordCBAM(64)
    >>> block(torch.randn(2, 64, 20, 20)).shape
    torch.Size([2, 64, 20, 20])
    >>> block.trace(torch.randn(2, 64, 20, 30)).coord.cols.shape
    torch.Size([2, 64, 1, 30])
    """

    form: Tensor

    def __init__(
        self,
        channels: int,
        config: BlockConfig | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = checked_config(config)
        super().__init__(config.mix, _resolved(config))
        self.channels = check_channels(channels)
        self.config = config
        self.ca = self._build_channel_layer()
        self.coord = self._build_coord_layer()
        self._unit = calibration(config)
        if config.mix.init == "identity":
            self._start_as_identity()
        if form_of(config):
            self.register_buffer(KEY, torch.tensor(form_of(config)))
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every weight anew, as a fresh block has it; of step 3 that is the identity again.

        Who resets every module of a network calls this after the block's own layers', which would
        undo it: ``for m in reversed(list(model.modules()))``, or ``model.apply``.
        """
        super().reset_parameters()
        self.ca.load_state_dict(self._build_channel_layer().state_dict())
        self.coord.load_state_dict(self._build_coord_layer().state_dict())
        self.zero_init_last()

    def zero_init_last(self) -> None:
        """Start afresh as the identity, if that is this config's start.

        By this name timm asks its blocks for it, once it has drawn every convolution anew.
        """
        if self.config.mix.init == "identity":
            self._start_as_identity()

    def _start_as_identity(self) -> None:
        """The last layers at 0: every gate is at one half, and a centred half is the factor 1."""
        lasts = [self.ca.fc2, self.coord.h_attention_head, self.coord.w_attention_head]
        if self.config.coord.use_spatial_gate:
            lasts.append(self.coord.spatial_gate_pw)
        for parameter in nn.ModuleList(lasts).parameters():
            nn.init.zeros_(parameter)

    def _build_channel_layer(self) -> ChannelGate:
        return ChannelGate(self.channels, self.config.channel)

    def _build_coord_layer(self) -> CoordGate:
        return CoordGate(self.channels, self.config.coord)

    def forward(self, x: Tensor) -> Tensor:
        """The attended map, (B, C, H, W)."""
        if self.bypassed:
            return x
        signal = self._attend(x)
        return self.blend(signal, lambda: self._described(signal), traced=False)[0]

    def trace(self, x: Tensor) -> Trace:
        """The same forward, with its maps and numbers; buffers change exactly as in ``forward``."""
        signal = self._attend(x)
        out, stats = self.blend(signal, lambda: self._described(signal), traced=True)
        maps, _ = signal.looked()
        assert stats is not None  # a traced blend always measures
        return Trace(
            out=x if self.bypassed else out,
            channel=ChannelMaps(maps.channel, maps.fusion, maps.temperature),
            coord=CoordMaps(maps.rows, maps.cols),
            stats=stats,
        )

    def _attend(self, x: Tensor) -> Attended:
        """``x`` and the attended signal ``y``, before the residual mix."""
        side = self.side
        check_input(x, self.channels, side.tensors[0], block=type(self).__name__)
        return attend(x, side)

    @property
    def side(self) -> Side:
        """Both gates as a kernel meets them."""
        parts: dict[str, Any] = self._modules  # where nn.Module looks, at a tenth of the time
        return Side(parts["ca"], parts["coord"], self._unit)

    def _described(self, signal: Attended) -> list[Tensor]:
        """The fields of :class:`Stats` from ``ca_mean`` to ``gain_mean``."""
        maps, factors = signal.looked()
        rows, cols = (wide(t).mean(dim=2) for t in factors[1:])
        beta = self.side.shape.beta
        gain = wide(factors.channel) * soften(rows * cols, None if beta == 1.0 else beta)
        return [*describe(maps), gain.mean()]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,  # noqa: FBT001
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Refuse the state of a block that computes something else, also where not strict."""
        reason = refusal(state_dict, prefix, form_of(self.config))
        if reason is not None:
            error_msgs.append(reason)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Width, preset and whether it is monitored."""
        return f"{self.channels}, preset={self.config.name!r}, monitor={self.monitor}"


def _resolved(config: BlockConfig) -> RescueConfig | None:
    """The config's rescue with a number for ``r_min``; warns where ours could never act."""
    rescue = config.rescue
    if rescue is None:
        return None
    r_min = resolved_r_min(config)
    if rescue.rescue_mode == "target" and config.mix.residual:
        sure = certify(config)
        if not sure.rescue_can_fire:
            warnings.warn(
                f"r_min={r_min:g}: the rescue can never act, since every gain is at least "
                f"{sure.gain_min:.3f}; expected more, or rescue_mode='watch'",
                UnreachableRescueWarning,
                stacklevel=3,
            )
    return dataclasses.replace(rescue, r_min=r_min)
