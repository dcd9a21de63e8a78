"""Where a network has places for blocks: ``P3``..., ``neck``, ``backbone`` and layer indices.

A network is a list of layers, ``network.model``, each of which knows its index ``i`` and which
layers it reads, ``f``; that is all that is asked of it.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch

from coordcbam._support.errors import nearest
from coordcbam.insert.plan import PlaceError

PROBE = 256  # pixels: enough for stride 64 to leave a map


def resolve(network: Any, at: str | int | Iterable[str | int]) -> list[int]:
    """The layer indices that ``at`` names, in order.

    Raises:
        PlaceError: a level, word or index that this network does not have.
    """
    words: list[Any]
    if isinstance(at, str):
        words = at.replace(",", " ").split()
    else:
        words = list(at) if isinstance(at, Iterable) else [at]
    head = len(network.model) - 1
    named = _named_places(network)
    indices: set[int] = set()
    for word in words:
        text = str(word)
        known = next((name for name in named if name.lower() == text.lower()), None)
        if known is not None:
            indices.update(named[known])
        elif text.isdecimal() and int(text) < head:
            indices.add(int(text))
        else:
            raise PlaceError(
                f"no place {text!r} in this network: nearest are {nearest(text, named)}, "
                f"or a layer index from 0 to {head - 1}"
            )
    if not indices:
        raise PlaceError(f"at={at!r} names no place: expected {nearest('', named)} or an index")
    return sorted(indices)


def _named_places(network: Any) -> dict[str, list[int]]:
    """``P3``..., ``neck`` and ``backbone`` as layer indices, read off the network itself."""
    layers = list(network.model)
    backbone = len(network.yaml["backbone"])
    sources = {layer.i: sources_of(layer) for layer in layers}
    feeds_head = sorted(set(sources[layers[-1].i]))
    heights = _heights(network)
    levels = {
        f"P{round(math.log2(PROBE / heights[index]))}": [index]
        for index in feeds_head
        if heights.get(index)
    }
    read_by_neck = {
        source
        for index, found in sources.items()
        if index >= backbone
        for source in found
        if source < backbone
    }
    return {**levels, "neck": feeds_head, "backbone": sorted(read_by_neck)}


def sources_of(layer: Any) -> list[int]:
    """Absolute indices of the layers that ``layer`` reads."""
    origins = layer.f if isinstance(layer.f, (list, tuple)) else [layer.f]
    return [origin if origin >= 0 else layer.i + origin for origin in origins]


def _heights(network: Any) -> dict[int, int]:
    """The height of each layer's output map for a probe image, by layer index."""
    seen: dict[int, int] = {}

    def note(layer: Any, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 4:
            seen[layer.i] = output.shape[2]

    handles = [layer.register_forward_hook(note) for layer in network.model]
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            network(probe(network))
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return seen


def probe(network: Any) -> torch.Tensor:
    """An empty image for the network, on its device and in its dtype."""
    like = next(network.parameters())
    channels = network.yaml.get("channels", 3)
    return torch.zeros(1, channels, PROBE, PROBE, device=like.device, dtype=like.dtype)
