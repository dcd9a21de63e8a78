"""Which function a state's numbers belong to: two blocks with the same keys need not compute alike.

The notebook's function needs no mark, so its states keep the notebook's keys. Any other is marked
by a small integer tensor (hosts take every value of a state for a tensor), and a state is loaded
only where the marks agree.
"""

from collections.abc import Mapping
from typing import Any

from coordcbam.block.config import SPACES, BlockConfig

KEY = "form"
NOTEBOOK = 0


def form_of(config: BlockConfig) -> int:
    """The mark of the function that ``config`` asks for; 0 for the notebook's.

    >>> form_of(BlockConfig.step2()), form_of(BlockConfig.step3())
    (0, 4)
    """
    channel, coord = SPACES.index(config.channel.space), SPACES.index(config.coord.space)
    return channel + 3 * coord + 9 * (config.mix.init == "calibrated")


def words_of(form: int) -> str:
    """What the options say about a mark, for an error.

    >>> words_of(4)
    "ca_space='lin', coord_space='lin'"
    """
    channel, coord, calibrated = form % 3, form // 3 % 3, form // 9
    words = f"ca_space={SPACES[channel]!r}, coord_space={SPACES[coord]!r}"
    return f"{words}, init='calibrated'" if calibrated else words


def refusal(state: Mapping[str, Any], prefix: str, form: int) -> str | None:
    """Why ``state`` may not be loaded into a block of this form; None where it may.

    A mark counts wherever it is; a state without one is the notebook's if it has both gates. A few
    tensors are nobody's, and may be loaded.
    """
    mark = state.get(prefix + KEY)
    gates = (f"{prefix}ca.fc2.weight", f"{prefix}coord.h_attention_head.weight")
    if mark is None and not all(key in state for key in gates):
        return None
    found = NOTEBOOK if mark is None else int(mark)
    if found == form:
        return None
    return (
        f"the state of {prefix.rstrip('.') or 'this block'} was made with {words_of(found)}, the "
        f"block has {words_of(form)}: the same weights would compute something else; build it with "
        "the config that the state was made with"
    )
