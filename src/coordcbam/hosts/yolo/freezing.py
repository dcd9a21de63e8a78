"""``freeze`` names layers: what they are made of stays as it is, the blocks in them learn."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from coordcbam.insert.attach import ATTRIBUTE, has_block


def spared(network: Any, frozen: Any) -> Any:
    """What Ultralytics calls ``freeze``, without the blocks of the layers that it names.

    It freezes every parameter whose name begins with a layer's, so a layer with a block is named by
    its other parts. Who names a block itself (``freeze=["16.ccattn"]``) freezes it.

    Args:
        network: the network.
        frozen: a count of layers, a list of indices and names, or None.
    """
    if isinstance(frozen, bool) or not isinstance(frozen, (int, list)):
        return frozen
    named: list[Any] = []
    for word in _words(frozen):
        layer = _layer(network, word)
        named += [word] if layer is None or not _holds(layer) else _parts(layer, str(word))
    return named


def hold(network: Any, frozen: Any) -> None:
    """Freeze what no name of :func:`spared` can say: parameters of a layer with a block itself."""
    for module in _own(network, frozen):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def hold_statistics(network: Any, frozen: Any) -> None:
    """Keep the running statistics of layers with blocks, as Ultralytics does of other layers."""
    for module in _own(network, frozen):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _words(frozen: Any) -> list[Any]:
    if isinstance(frozen, list):
        return frozen
    counts = isinstance(frozen, int) and not isinstance(frozen, bool)
    return list(range(frozen)) if counts else []


def _layer(network: Any, word: Any) -> Any:
    layers = list(network.model)
    index = int(word) if isinstance(word, int) or str(word).isdigit() else -1
    return layers[index] if 0 <= index < len(layers) else None


def _holds(module: nn.Module) -> bool:
    return any(has_block(part) for part in module.modules())


def _parts(module: nn.Module, name: str) -> list[str]:
    """What a layer is made of, but for blocks, in as few names as possible."""
    if not _holds(module):
        return [name]
    return [
        part
        for key, child in module.named_children()
        if key != ATTRIBUTE
        for part in _parts(child, f"{name}.{key}")
    ]


def _own(network: Any, frozen: Any) -> Iterator[nn.Module]:
    """Every module of the frozen layers with blocks that is in no block."""
    for word in _words(frozen):
        layer = _layer(network, word)
        if layer is not None and _holds(layer):
            for path, module in layer.named_modules():
                if ATTRIBUTE not in path.split("."):
                    yield module
