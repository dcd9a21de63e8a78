"""Checks of what is handed to a layer: its width when it is built, its input when it runs."""

import numbers
from typing import Any

import torch
from torch import Tensor

from coordcbam._support.errors import shown
from coordcbam.block.options import OptionTypeError, OptionValueError

SIGNALS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class InputError(ValueError):
    """A tensor of the wrong rank, width or size."""


class InputTypeError(InputError, TypeError):
    """Not a tensor, or one of the wrong dtype."""


def check_channels(channels: Any) -> int:
    """``channels`` as an int of 1 or more.

    Raises:
        OptionTypeError: not an integer.
        OptionValueError: less than 1, or more than a tensor can have.
    """
    if isinstance(channels, bool) or not isinstance(channels, numbers.Integral):
        raise OptionTypeError(f"channels={shown(channels)}: expected an integer >= 1")
    if int(channels) < 1:
        raise OptionValueError(f"channels={shown(channels)}: expected an integer >= 1")
    if int(channels) >= 2**31:
        raise OptionValueError(f"channels={shown(channels)}: expected fewer than 2**31 channels")
    return int(channels)


def check_input(x: Any, channels: int, weight: Tensor, *, block: str) -> None:
    """Raise unless ``x`` is a (B, channels, H, W) map in the block's dtype, H and W at least 1.

    An empty batch passes: detectors meet one whenever an image has no proposals.

    Raises:
        InputTypeError: not a dense tensor, or not of the dtype of ``weight`` (autocast may cast).
        InputError: wrong rank, wrong number of channels, an empty map or another device.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # a trace records one good run; its sizes are not numbers to compare
    dtypes = (weight.dtype,) if not _autocasts(x, weight) else SIGNALS
    check_map(x, channels, dtypes, weight.device, who=block)


def check_map(
    x: Any,
    channels: int | None,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
    *,
    who: str,
) -> None:
    """Raise unless ``x`` is a dense (B, C, H, W) map on ``device`` of one of the dtypes.

    Args:
        x: anything.
        channels: C, or None for any.
        dtypes: what is expected; float8, integers and complex numbers are never a signal here.
        device: of the block.
        who: what the error begins with.
    """
    want = f"(B, {'C' if channels is None else channels}, H, W)"
    if not isinstance(x, Tensor):
        raise InputTypeError(f"{who}: got {type(x).__name__}, expected a {want} tensor")
    if x.layout is not torch.strided or x.is_nested:
        layout = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").lstrip("_")
        raise InputTypeError(f"{who}: got a {layout} tensor, expected a dense {want} one")
    if x.dim() != 4 or channels not in (None, x.shape[1]):
        raise InputError(f"{who}: got shape {tuple(x.shape)}, expected {want}")
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise InputError(f"{who}: got an empty map {tuple(x.shape)}, expected H and W >= 1")
    if x.dtype not in dtypes or x.dtype not in SIGNALS:
        expected = str(dtypes[0]) if len(dtypes) == 1 else "a floating-point map"
        raise InputTypeError(
            f"{who}: got dtype {x.dtype}, expected {expected}; cast the input or the block"
        )
    if x.is_meta and device.type != "meta":  # any other pair of devices torch names itself
        raise InputError(
            f"{who}: got a tensor on {x.device}, expected {device}; move the input or the block"
        )


def _autocasts(x: Any, weight: Tensor) -> bool:
    if not isinstance(x, Tensor) or x.dtype == weight.dtype:
        return False  # nothing to cast
    if torch.float64 in (x.dtype, weight.dtype):
        return False  # which autocast leaves as it is
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(
        x.device.type
    )
