"""A model whose numbers can be told on paper, and what it is called with."""

import pytest
import torch
from torch import nn


@pytest.fixture
def model() -> nn.Sequential:
    """Linear in eval mode; places "0" with 4 and "3" with 6 channels; buffers, and dice."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False),
        nn.BatchNorm2d(4, affine=False),
        nn.Dropout(0.5),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.Conv2d(6, 2, 1, bias=False),
    )


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return [torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)]
