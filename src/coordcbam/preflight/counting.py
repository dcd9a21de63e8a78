"""What a model's blocks cost it, for the record of a run: counted once, and quickly."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from coordcbam.insert import bypass, switches
from coordcbam.insert.attach import check_model
from coordcbam.preflight.price import in_plain, one_of, parameters
from coordcbam.preflight.trial import called


def cost(model: nn.Module, inputs: Any) -> dict[str, float]:
    """What the blocks in ``model`` add and what it has without them, for one sample.

    Two forwards in eval mode and without gradients, the second with the blocks bypassed; of a block
    in a guard, the guard's. Modes and buffers are as before. Operations are PyTorch's count: 2 a
    multiplication and addition in matrix products and convolutions, nothing for the rest.

    Args:
        model: any module.
        inputs: what to call it with: a tensor, or a tuple of arguments. The first sample counts.

    Returns:
        ``parameters`` and ``flops`` of the blocks, ``parameters_model`` and ``flops_model`` of the
        rest, and of images their ``imgsz``: the longer side in pixels.

    >>> from coordcbam import CoordCBAM
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), CoordCBAM(8))
    >>> found = cost(model, torch.ones(1, 3, 4, 4))
    >>> found["parameters_model"], found["flops_model"], found["imgsz"]
    (32, 768, 4)
    """
    check_model(model)
    sample = one_of(inputs)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with_blocks = _flops(model, sample)
        with bypass(model):
            without = _flops(model, sample)
    finally:
        for module, training in modes.items():
            module.training = training
    ours = parameters(block for _, block in switches(model))
    found: dict[str, float] = {
        "parameters": ours,
        "parameters_model": parameters([model]) - ours,
        "flops": with_blocks - without,
        "flops_model": without,
    }
    first = sample[0] if isinstance(sample, tuple) else sample
    if isinstance(first, Tensor) and first.dim() == 4:
        found["imgsz"] = max(first.shape[2:])
    return found


def _flops(model: nn.Module, sample: Any) -> int:
    with in_plain(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        called(model, sample)
    return int(counter.get_total_flops())
