"""What is measured: sizes of a detector's maps and their layouts in memory."""

import dataclasses

import torch
from torch import Tensor

from coordcbam._support.errors import UsageError, nearest, shown

Size = tuple[int, int, int, int]

SIZES: tuple[Size, ...] = (
    *((batch, *rest) for rest in ((64, 80, 80), (128, 40, 40), (256, 20, 20)) for batch in (1, 8)),
    (8, 512, 20, 20),
    (16, 256, 40, 40),
)
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Maps of one size in one layout.

    >>> Case(size=(1, 8, 4, 4)).shape
    '1x8x4x4'
    """

    size: Size
    layout: str = "NCHW"

    @property
    def shape(self) -> str:
        """The size as it is written in tables and flags."""
        return "x".join(map(str, self.size))

    def maps(self, device: torch.device, *, seed: int = 0) -> Tensor:
        """Normally distributed maps, the same for one seed."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.size, generator=generator)
        return x.to(device).contiguous(memory_format=LAYOUTS[self.layout])


def size_from(text: str) -> Size:
    """The size that ``text`` spells.

    Raises:
        UsageError: not four positive integers.

    >>> size_from("8x64x80x80")
    (8, 64, 80, 80)
    """
    words = text.lower().split("x")
    if len(words) != 4 or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"size {shown(text)}: expected BxCxHxW, e.g. 8x64x80x80")
    batch, channels, height, width = map(int, words)
    return batch, channels, height, width


def layout_from(text: str) -> str:
    """The layout of that name.

    Raises:
        UsageError: no such layout.
    """
    if text not in LAYOUTS:
        raise UsageError(f"layout {shown(text)}: expected one of {nearest(text, LAYOUTS)}")
    return text
