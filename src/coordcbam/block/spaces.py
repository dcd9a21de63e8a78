"""What a gate stands for: a damping, as in the notebook, or a factor centred on 1."""

import math

import torch
from torch import Tensor

from coordcbam.kernels.plain import soften


def factor(gate: Tensor, beta: float | None, space: str) -> Tensor:
    """The factor of a gate in [0, 1]; with ``u = 2 * gate - 1`` in the centred spaces.

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


def soften_centred(gate: Tensor, strength: float | Tensor) -> Tensor:
    """``1 + strength * (2 * gate - 1)``: exactly 1 for a gate of one half."""
    return 1.0 + strength * (2.0 * gate - 1.0)


def power(gate: Tensor, reach: float, strength: float | Tensor = 1.0) -> Tensor:
    """``reach ** (strength * (2 * gate - 1))``: exactly 1 for a gate of one half."""
    return torch.exp(math.log(reach) * strength * (2.0 * gate - 1.0))
