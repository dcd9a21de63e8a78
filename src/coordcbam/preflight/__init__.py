"""What will it do to *this* model before training: gain, shock, cost, and a ranking of places."""

from coordcbam.preflight.candidates import BLOCKS, candidates
from coordcbam.preflight.counting import cost
from coordcbam.preflight.result import AloneRow, AtPlace, BlockRow, Figure, PlaceRow, Preflight
from coordcbam.preflight.run import preflight
from coordcbam.preflight.table import tables_of

__all__ = [
    "BLOCKS",
    "AloneRow",
    "AtPlace",
    "BlockRow",
    "Figure",
    "PlaceRow",
    "Preflight",
    "candidates",
    "cost",
    "preflight",
    "tables_of",
]
