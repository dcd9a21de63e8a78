"""Find places in any ``nn.Module``, plan, attach by one mechanism (submodule + hook), undo."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from coordcbam.insert.apply import Insertion, insert_, remove_
from coordcbam.insert.attach import (
    ATTRIBUTE,
    attached,
    attached_block,
    blocks,
    bypass,
    label,
    switches,
)
from coordcbam.insert.foreign import Foreign, ForeignBlock
from coordcbam.insert.guard import Guarded, Guarding, guard_
from coordcbam.insert.plan import Plan, Row, plan
from coordcbam.insert.recipe import RECIPE_KEY, lost_places
from coordcbam.insert.training import (
    commit_,
    commit_on_step,
    copy_monitor_state_,
    parameter_groups,
    scalars,
)

__all__ = [
    "ATTRIBUTE",
    "RECIPE_KEY",
    "Foreign",
    "ForeignBlock",
    "Guarded",
    "Guarding",
    "Insertion",
    "Plan",
    "Row",
    "attached",
    "attached_block",
    "blocks",
    "bypass",
    "commit_",
    "commit_on_step",
    "copy_monitor_state_",
    "guard_",
    "insert_",
    "label",
    "lost_places",
    "parameter_groups",
    "plan",
    "rebuild",
    "remove_",
    "scalars",
    "switches",
]


def rebuild(model: nn.Module, spec: Mapping[str, Any]) -> None:
    """Attach what a recipe notes: blocks or guards."""
    (guard_ if "guard" in spec else insert_)(model, spec)
