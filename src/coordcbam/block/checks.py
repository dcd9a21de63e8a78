"""Checks of what is handed to a layer: its width when it is built, its input when it runs."""

import numbers
from typing import Any

import torch
from torch import Tensor

from coordcbam.block.options import OptionTypeError, OptionValueError


class InputError(ValueError):
    """A tensor of the wrong rank, width or size."""


class InputTypeError(InputError, TypeError):
    """Not a tensor, or one of the wrong dtype."""


def check_channels(channels: Any) -> int:
    """``channels`` as an int of 1 or more.

    Raises:
        OptionTypeError: not an integer.
        OptionValueError: less than 1.
    """
    if isinstance(channels, bool) or not isinstance(channels, numbers.Integral):
        raise OptionTypeError(f"channels={channels!r}: expected an integer >= 1")
    if channels < 1:
        raise OptionValueError(f"channels={channels!r}: expected an integer >= 1")
    return int(channels)


def check_input(x: Any, channels: int, weight: Tensor, *, block: str) -> None:
    """Raise unless ``x`` is a (B, channels, H, W) map in the block's dtype, H and W at least 1.

    An empty batch passes: detectors meet one whenever an image has no proposals.

    Raises:
        InputTypeError: not a tensor, or not of the dtype of ``weight`` (autocast may cast).
        InputError: wrong rank, wrong number of channels or an empty map.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # a trace records one good run; its sizes are not numbers to compare
    want = f"(B, {channels}, H, W)"
    if not isinstance(x, Tensor):
        raise InputTypeError(f"{block}: got {type(x).__name__}, expected a {want} tensor")
    if x.dim() != 4 or x.shape[1] != channels:
        raise InputError(f"{block}: got shape {tuple(x.shape)}, expected {want}")
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise InputError(f"{block}: got an empty map {tuple(x.shape)}, expected H and W >= 1")
    if not x.dtype.is_floating_point or not (x.dtype == weight.dtype or _autocasts(x, weight)):
        raise InputTypeError(
            f"{block}: got dtype {x.dtype}, expected {weight.dtype}; cast the input or the block"
        )


def _autocasts(x: Tensor, weight: Tensor) -> bool:
    if torch.float64 in (x.dtype, weight.dtype):
        return False  # autocast leaves float64 as it is
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(
        x.device.type
    )
