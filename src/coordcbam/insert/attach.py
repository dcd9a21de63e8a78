"""The one mechanism: a block or a guard is a submodule of a layer, and a forward hook calls it.

The layer keeps its class, its keys and its place, so pretrained weights still fit, and hosts that
swap a layer's ``forward`` (to fuse or to export) cannot lose the block: a hook runs after whatever
``forward`` there is. The hook is one module-level function, because hosts pickle whole models. A
guard's runs before ``forward`` as well, which may overwrite what the guard compares with.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from coordcbam._support.errors import UsageError, shown
from coordcbam._support.permanent import permanent
from coordcbam.block import CoordCBAM, GuardedResidual
from coordcbam.block.guard import Guard
from coordcbam.insert.foreign import ForeignBlock

ATTRIBUTE = "ccattn"


@permanent
def attached_block(layer: nn.Module, args: Any, *output: Tensor) -> Any:
    """The forward hook: the layer's output, through what is attached to it; before, its input."""
    block: Any = getattr(layer, ATTRIBUTE)
    return block.after(args, *output) if output else block.given(args)


def attach(layer: nn.Module, block: GuardedResidual | ForeignBlock) -> None:
    """Put ``block`` behind ``layer``, or a guard around it."""
    layer.add_module(ATTRIBUTE, block)
    layer.register_forward_hook(attached_block)
    if isinstance(block, Guard):
        layer.register_forward_pre_hook(attached_block)


def detach(layer: nn.Module) -> None:
    """Undo :func:`attach`."""
    for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if hook is attached_block:
                del hooks[key]
    delattr(layer, ATTRIBUTE)


def has_block(layer: nn.Module) -> bool:
    """Whether a block is attached to this very layer."""
    return ATTRIBUTE in layer._modules


def check_model(model: nn.Module) -> None:
    """Raise unless ``model`` is a module.

    Raises:
        UsageError: anything else.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model={shown(model)}: expected an nn.Module")


def blocks(model: nn.Module) -> list[tuple[str, GuardedResidual]]:
    """Every block and guard in ``model``, attached or built in by hand, as ``(path, block)``.

    The path is the block's own, so ``model.get_submodule(path)`` is the block.

    >>> from coordcbam import CoordCBAM
    >>> [path for path, _ in blocks(nn.Sequential(nn.ReLU(), CoordCBAM(8)))]
    ['1']
    """
    check_model(model)
    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, GuardedResidual)
    ]


def guarded(model: nn.Module) -> Iterator[GuardedResidual]:
    """The same blocks without paths, for what is done at every step."""
    met: set[int] = set()
    ahead = [model]
    while ahead:
        module = ahead.pop()
        if id(module) in met:
            continue
        met.add(id(module))
        if isinstance(module, GuardedResidual):
            yield module
        if not isinstance(module, CoordCBAM):  # which has none inside
            ahead.extend(child for child in module._modules.values() if child is not None)


def like_of(layer: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Device and dtype of ``layer``, or of ``model`` where it has no parameters, for ``.to()``."""
    like = next(iter((*layer.parameters(), *model.parameters(), torch.empty(0))))
    return {"device": like.device, "dtype": like.dtype if like.is_floating_point() else None}


def attached(model: nn.Module) -> list[str]:
    """The paths of all layers to which something is attached, also what is not ours.

    >>> attached(nn.Sequential(nn.ReLU()))
    []
    """
    check_model(model)
    return [path for path, module in model.named_modules() if has_block(module)]


def switches(model: nn.Module) -> list[tuple[str, GuardedResidual | ForeignBlock]]:
    """Everything in ``model`` that :func:`bypass` switches off, with its path."""
    check_model(model)
    kinds = (GuardedResidual, ForeignBlock)
    return [(path, module) for path, module in model.named_modules() if isinstance(module, kinds)]


def label(path: str) -> str:
    """A block's name for people: the path of the layer it is attached to.

    >>> label("model.16.ccattn"), label("model.16.ccattn.inner"), label("neck.attention")
    ('model.16', 'model.16', 'neck.attention')
    """
    return path.removesuffix(f".{ATTRIBUTE}.inner").removesuffix(f".{ATTRIBUTE}")


@contextlib.contextmanager
def bypass(model: nn.Module) -> Iterator[None]:
    """Switch every block of ``model`` off inside the ``with``: each returns its input.

    A guard that is off returns what the block it guards makes.

    That includes the networks of helpers that are no modules themselves, such as the predictor
    that a detector keeps between calls.

    >>> import torch
    >>> from coordcbam import CoordCBAM
    >>> block, x = CoordCBAM(8), torch.randn(1, 8, 4, 4)
    >>> with bypass(block):
    ...     torch.equal(block(x), x)
    True
    """
    check_model(model)
    each = (block for root in _roots(model) for _, block in switches(root))
    found = list({id(block): block for block in each}.values())
    before = [block.bypassed for block in found]
    try:
        for block in found:
            block.bypassed = True
        yield
    finally:
        for block, was in zip(found, before, strict=True):
            block.bypassed = was


def _roots(model: nn.Module) -> list[nn.Module]:
    """``model``, and the networks that plain objects kept by its modules hold as ``model``."""
    kept = [value for module in model.modules() for value in vars(module).values()]
    # Read from the instance alone: a property of a stranger could do anything.
    held = [getattr(value, "__dict__", {}).get("model") for value in kept]
    return [model, *(network for network in held if isinstance(network, nn.Module))]
