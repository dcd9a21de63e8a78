"""The channel gate's side net: which channels to keep, from their means and maxima."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coordcbam._support.errors import shown
from coordcbam._support.permanent import permanent
from coordcbam.block.bounded import MARGIN, logit_of
from coordcbam.block.checks import check_channels
from coordcbam.block.config import ChannelConfig
from coordcbam.block.options import OptionTypeError, OptionValueError, Rule, checked
from coordcbam.kernels.elementwise import ACTIVATIONS, GATES, factor


@permanent
class ChannelGate(nn.Module):
    """``gate = sigmoid(z / T)``, z fused from an MLP of each channel's mean and maximum.

    Holds the notebook's parameters under its names and in its order of construction, so that the
    same seed gives the same weights. Functions are looked up by name: a module that stored one
    could not be loaded safely.

    Args:
        channels: width of the map, 1 or more.
        config: options; the default is step 2's.
        eps: floor inside the inverse softplus and offset of a learnable temperature.
        bias: whether the two layers of the MLP have biases.

    Raises:
        OptionValueError: a width that leaves no hidden unit.

    Source: notebook sections 2 and 4A; CBAM, arXiv 1807.06521.
    """

    T: Tensor

    def __init__(
        self,
        channels: int,
        config: ChannelConfig | None = None,
        *,
        eps: float = 1e-6,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.channels = check_channels(channels)
        self.config = config = checked(config, ChannelConfig)
        rule = Rule(name="eps", owner="ChannelGate", default=1e-6, flag="eps", help="")
        self.eps: float = rule.check(eps)
        if not isinstance(bias, bool):
            raise OptionTypeError(f"ChannelGate.bias={shown(bias)}: expected True or False")
        hidden = max(config.min_hidden, self.channels // config.reduction)
        if hidden < 1:
            raise OptionValueError(
                f"ChannelConfig.min_hidden={config.min_hidden} with {self.channels} channels and "
                f"reduction {config.reduction} leaves {hidden} hidden units: expected 1 or more "
                "(notebook: ca_min_hidden)"
            )
        self.fc1 = nn.Conv2d(self.channels, hidden, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden, self.channels, 1, bias=bias)
        self.fusion_router: nn.Sequential | None = None
        if config.fusion == "softmax":
            self.fusion_router = nn.Sequential(
                nn.Conv2d(2 * self.channels, config.fusion_router_hidden, 1),
                nn.ReLU(),
                nn.Conv2d(config.fusion_router_hidden, 2, 1),
            )
            for parameter in self.fusion_router[2].parameters():
                nn.init.zeros_(parameter)
        if not config.learnable_temperature:
            self.register_buffer("T", torch.tensor(config.temperature))
        elif config.t_map == "softplus":
            self.t_raw = nn.Parameter(_inverse_softplus(self._start(), self.eps))
        else:
            self.t_logit = nn.Parameter(self._logit(config.temperature))

    def _start(self) -> float:
        """Where a learnable temperature starts: inside its clamp by a margin of ``eps``."""
        config = self.config
        if config.t_min is None or config.t_max is None:
            return config.temperature
        low, high = config.t_min + self.eps, config.t_max - self.eps
        if low >= high:
            low, high = config.t_min, config.t_max
        return min(max(config.temperature, low), high)

    @property
    def raw_temperature(self) -> Tensor:
        """The tensor that the temperature is made of, a scalar."""
        if not self.config.learnable_temperature:
            return self.T
        return self.t_raw if self.config.t_map == "softplus" else self.t_logit

    def temperature(self, like: Tensor, raw: Tensor | None = None) -> Tensor:
        """The temperature in force, a scalar on the device and in the dtype of ``like``.

        Args:
            like: any tensor.
            raw: what to make it of instead of :attr:`raw_temperature`.
        """
        config = self.config
        t = self.raw_temperature if raw is None else raw
        if config.learnable_temperature and config.t_map == "softplus":
            t = F.softplus(t) + self.eps
        elif config.learnable_temperature:
            low, high = self._ends()
            return (low + (high - low) * torch.sigmoid(t)).to(like)
        t = t.to(device=like.device, dtype=like.dtype)
        if config.t_min is None:
            return t
        return t.clamp(config.t_min, config.t_max)

    def _ends(self) -> tuple[float, float]:
        """The ends between which the sigmoid map keeps the temperature."""
        assert self.config.t_min is not None  # the options demand both ends for this map
        assert self.config.t_max is not None
        return self.config.t_min, self.config.t_max

    def _logit(self, temperature: float) -> Tensor:
        """Where the sigmoid map has ``temperature``, or the nearest that is not at an end."""
        low, high = self._ends()
        return logit_of((temperature - low) / (high - low), MARGIN)

    def gate(self, mean: Tensor, peak: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gate (B, C, 1, 1), router weights (B, 2) or None, temperature ().

        Args:
            mean: each channel's mean, (B, C, 1, 1).
            peak: each channel's maximum, (B, C, 1, 1).
        """
        a, m = self._mlp(mean), self._mlp(peak)
        fusion = None
        if self.fusion_router is None:
            z = a + m
        else:
            logits = self.fusion_router(torch.cat([mean, peak], dim=1)).flatten(1)
            if self.config.router_temperature is not None:
                logits = logits / self.config.router_temperature
            fusion = torch.softmax(logits, dim=1)
            z = fusion[:, 0].view(-1, 1, 1, 1) * a + fusion[:, 1].view(-1, 1, 1, 1) * m
        t = self.temperature(mean)
        return GATES[self.config.gate](z / t), fusion, t

    def scale(self, gate: Tensor) -> Tensor:
        """The factor a gate stands for, (B, C, 1, 1); ``1 + beta * (gate - 1)`` in the notebook."""
        return factor(gate, self.config.beta, self.config.space)

    def _mlp(self, s: Tensor) -> Tensor:
        out: Tensor = self.fc2(ACTIVATIONS[self.config.act](self.fc1(s)))
        return out

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """A temperature from before the sigmoid map, fixed or softplus, becomes its ``t_logit``."""
        key, raw, fixed = (f"{prefix}{name}" for name in ("t_logit", "t_raw", "T"))
        if "t_logit" in self._parameters and key not in state_dict:
            if raw in state_dict:
                old = F.softplus(state_dict.pop(raw).detach().double()) + self.eps
                state_dict[key] = self._logit(old.item())
            elif fixed in state_dict:
                state_dict[key] = self._logit(state_dict.pop(fixed).item())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Width, and the options that are not the default."""
        return ", ".join(filter(None, (str(self.channels), self.config.changed())))


def _inverse_softplus(value: float, eps: float) -> Tensor:
    """``log(max(exp(value) - 1, eps))`` in the default dtype, as the notebook computes it."""
    return torch.log(torch.clamp(torch.exp(torch.tensor(value)) - 1.0, min=eps))
