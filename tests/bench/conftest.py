"""Contenders that cost nothing, and lengths that end at once."""

import pytest
import torch
from torch import nn

from coordcbam.bench import Case, Contender, Length
from coordcbam.block import BlockConfig, CoordCBAM


@pytest.fixture
def case() -> Case:
    return Case(size=(2, 8, 6, 5))


@pytest.fixture
def short() -> Length:
    return Length(seconds=0.0, least=3, most=3, warm_up=1)


@pytest.fixture
def few() -> list[Contender]:
    """One of ours, the notebook's, and a stranger."""
    config = BlockConfig.step2()

    def ours(channels: int) -> nn.Module:
        return CoordCBAM(channels, config)

    return [
        Contender(name="coordcbam step2", build=ours, config=config, kernel="algebra"),
        Contender(name="notebook step2", build=ours, config=config, kernel="plain"),
        Contender(name="timm se", build=lambda channels: nn.Conv2d(channels, channels, 1)),
    ]


@pytest.fixture
def cpu() -> torch.device:
    return torch.device("cpu")
