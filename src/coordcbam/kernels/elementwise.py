"""The block's functions of one number: activations, gates, and the factor a gate stands for."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Elementwise: TypeAlias = Callable[[Tensor], Tensor]


def hswish(x: Tensor) -> Tensor:
    """``x * relu6(x + 3) / 6``, in the notebook's order of operations.

    >>> hswish(torch.tensor([-3.0, 0.0, 3.0]))
    tensor([-0., 0., 3.])
    """
    return x * F.relu6(x + 3.0) / 6.0


def hardsigmoid(x: Tensor) -> Tensor:
    """``relu6(x + 3) / 6``, whose gradient has a gradient, which that of PyTorch's own has not.

    >>> hardsigmoid(torch.tensor([-3.0, 0.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    return F.relu6(x + 3.0) / 6.0


ACTIVATIONS: dict[str, Elementwise] = {"relu": F.relu, "silu": F.silu, "hswish": hswish}
GATES: dict[str, Elementwise] = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}


def factor(gate: Tensor, beta: float | None, space: str) -> Tensor:
    """The factor of a gate in [0, 1]: a damping, or with ``u = 2 * gate - 1`` centred on 1.

    ``"gate"``: ``1 + beta * (gate - 1)``, in [1 - beta, 1]; ``"lin"``: ``1 + beta * u``, in
    [1 - beta, 1 + beta]; ``"log"``: ``exp(log(1 + beta) * u)``, in [1 / (1 + beta), 1 + beta].

    >>> gates = torch.tensor([0.0, 0.5, 1.0])
    >>> [factor(gates, 0.25, space).tolist() for space in ("gate", "lin", "log")]
    [[0.75, 0.875, 1.0], [0.75, 1.0, 1.25], [0.800000011920929, 1.0, 1.25]]
    """
    if space == "gate":
        return soften(gate, beta)
    assert beta is not None  # the options demand one in a centred space
    return soften_centred(gate, beta) if space == "lin" else power(gate, 1.0 + beta)


def masked(mask: Tensor, strength: Tensor, space: str, scale_max: float | None) -> Tensor:
    """The factor of one coordinate mask, half of the pair ``rows * cols``.

    ``"gate"``: ``(1 - a) + a * mask`` at the strength a; ``"lin"``: ``1 + a * u``; ``"log"``:
    ``sqrt(scale_max) ** (a * u)``.

    >>> masked(torch.tensor([0.0, 0.5]), torch.tensor(0.5), "gate", None)
    tensor([0.5000, 0.7500])
    """
    if space == "gate":
        return (1.0 - strength) + strength * mask
    if space == "lin":
        return soften_centred(mask, strength)
    assert scale_max is not None  # the options demand it in this space
    return power(mask, math.sqrt(scale_max), strength)


def soften(gate: Tensor, beta: float | None) -> Tensor:
    """Pull a gate towards 1: ``1 + beta * (gate - 1)``; ``beta=None`` is the gate itself.

    ``beta=1`` is the same number up to rounding only, so an absent softening is None.

    >>> soften(torch.tensor([0.2, 1.0]), 0.5)
    tensor([0.6000, 1.0000])
    """
    return gate if beta is None else 1.0 + beta * (gate - 1.0)


def soften_centred(gate: Tensor, strength: float | Tensor) -> Tensor:
    """``1 + strength * (2 * gate - 1)``: exactly 1 for a gate of one half."""
    return 1.0 + strength * (2.0 * gate - 1.0)


def power(gate: Tensor, reach: float, strength: float | Tensor = 1.0) -> Tensor:
    """``reach ** (strength * (2 * gate - 1))``: exactly 1 for a gate of one half."""
    return torch.exp(math.log(reach) * strength * (2.0 * gate - 1.0))
