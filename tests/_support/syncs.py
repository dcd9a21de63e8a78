"""Operations that make Python wait for the device, and every block in which there must be none."""

from torch.utils._python_dispatch import TorchDispatchMode

import coordcbam as cc
from _support.every_block import CHANNELS, MAKERS, monitored


class Syncs(TorchDispatchMode):
    """Counts the operations whose result Python has to wait for."""

    NAMES = frozenset(
        {
            "_local_scalar_dense",
            "item",
            "nonzero",
            "equal",
            "masked_select",
            "_unique2",
            "is_nonzero",
        }
    )

    def __init__(self):
        super().__init__()
        self.count = self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        self.count += func.overloadpacket.__name__ in self.NAMES
        return func(*args, **(kwargs or {}))


STEP3 = cc.BlockConfig.step3()
NOTEBOOK = {
    "ca_fusion": "sum",
    "learnable_temperature": True,
    "learnable_alpha": True,
    "coord_use_spatial_gate": True,
    "coord_norm": "bn",
    "rescue_mode": "alpha_floor",
}
OPTIONS = {
    "step 3, all on": STEP3.replace(
        learnable_temperature=True, learnable_alpha=True, coord_use_spatial_gate=True, r_max=1.5
    ),
    "step 3, log": STEP3.replace(ca_space="log", coord_space="log", rescue_mode="watch"),
    "step 3, no residual": STEP3.replace(residual=False),
    "step 2, all on": cc.BlockConfig.from_notebook(**NOTEBOOK),
    "step 2, calibrated": cc.BlockConfig.step2().replace(init="calibrated"),
}


def every_layer():
    """Every kind of block, and ours with every option on, by name."""
    for name in MAKERS:
        yield name, monitored(name)[0]
    for name, config in OPTIONS.items():
        block = cc.CoordCBAM(CHANNELS, config)
        block.monitor = config.rescue is not None
        yield name, block
