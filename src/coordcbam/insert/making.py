"""A block of a width: ours from its options, or another from its recipe."""

from coordcbam.block import BlockConfig, CoordCBAM, GuardedResidual
from coordcbam.insert.foreign import Foreign, ForeignBlock


def make(what: BlockConfig | Foreign, channels: int, *, monitor: bool) -> CoordCBAM | ForeignBlock:
    """The block, which measures the signal while it trains if ``monitor``, as does its guard.

    Raises:
        UsageError: a block that cannot be made.

    >>> make(BlockConfig.step2(), 8, monitor=False).monitor
    False
    """
    made = what.build(channels) if isinstance(what, Foreign) else CoordCBAM(channels, what)
    for block in (made, getattr(made, "inner", None)):
        if isinstance(block, GuardedResidual):
            block.monitor = monitor
    return made
