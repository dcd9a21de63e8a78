"""Blocks whose numbers are known, at paths that any process can import."""

import torch
from torch import Tensor, nn


class Half(nn.Module):
    """0.5 x, by one parameter a channel."""

    def __init__(self, channels: int, factor: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Lifted(nn.Module):
    """x + 3: as loud as it is, about another mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x + 3.0


class Drawn(nn.Module):
    """x times a number that a seed chooses."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("factor", torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Pointwise(nn.Module):
    """A convolution of width 1 without a bias: C C parameters, 2 C C H W operations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Narrow(nn.Module):
    """x, or of maps with 4 channels nothing at all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = 0.0 if channels == 4 else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Small(nn.Module):
    """x, but of several samples with 6 channels an error."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        if self.channels == 6 and len(x) > 1:
            raise RuntimeError("no room\nfor this map")
        return x


class Lost(nn.Module):
    """NaN everywhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan")
