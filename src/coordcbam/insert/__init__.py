"""Find places in any ``nn.Module``, plan, attach by one mechanism (submodule + hook), undo."""

from coordcbam.insert.apply import RECIPE_KEY, Insertion, insert_, remove_
from coordcbam.insert.attach import ATTRIBUTE, attached_block, blocks, bypass, label
from coordcbam.insert.plan import Plan, Row, plan

__all__ = [
    "ATTRIBUTE",
    "RECIPE_KEY",
    "Insertion",
    "Plan",
    "Row",
    "attached_block",
    "blocks",
    "bypass",
    "insert_",
    "label",
    "plan",
    "remove_",
]
