"""Sizes, layouts and the maps that they come to."""

import pytest
import torch

from coordcbam._support.errors import UsageError
from coordcbam.bench import LAYOUTS, SIZES, Case, layout_from, size_from


def test_the_sizes_are_a_detectors() -> None:
    assert {size[1:] for size in SIZES} == {
        (64, 80, 80),
        (128, 40, 40),
        (256, 20, 20),
        (512, 20, 20),
        (256, 40, 40),
    }
    assert len(set(SIZES)) == len(SIZES) == 8


def test_a_size_is_read_as_it_is_written() -> None:
    for size in SIZES:
        assert size_from(Case(size=size).shape) == size
    assert size_from("1X2X3X4") == (1, 2, 3, 4)


@pytest.mark.parametrize("text", ["", "8x64x80", "8x64x80x80x1", "0x1x1x1", "-1x2x3x4", "axbxcxd"])
def test_a_wrong_size(text: str) -> None:
    with pytest.raises(UsageError, match="expected BxCxHxW"):
        size_from(text)


def test_a_wrong_layout() -> None:
    assert [layout_from(name) for name in LAYOUTS] == list(LAYOUTS)
    with pytest.raises(UsageError, match="'channels_last'"):
        layout_from("channel_last")


def test_maps_are_the_same_numbers_in_both_layouts(cpu: torch.device) -> None:
    one, other = (Case(size=(2, 3, 4, 5), layout=layout).maps(cpu) for layout in LAYOUTS)
    assert torch.equal(one, other)
    assert one.is_contiguous()
    assert other.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(one, Case(size=(2, 3, 4, 5)).maps(cpu, seed=1))
