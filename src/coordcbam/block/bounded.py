"""Where a parameter starts that a sigmoid holds inside an interval."""

import torch
from torch import Tensor

NOTEBOOKS_MARGIN = 1e-6
# Wide enough that sigmoid(x) * (1 - sigmoid(x)) is not 0 in bfloat16 either.
MARGIN = 2.0**-7


def logit_of(share: float, margin: float) -> Tensor:
    """``log(s / (1 - s))`` of ``share`` clamped to [margin, 1 - margin], a default-dtype scalar.

    >>> logit_of(0.5, MARGIN)
    tensor(0.)
    """
    return torch.logit(torch.tensor(min(max(share, margin), 1.0 - margin)), eps=margin)
