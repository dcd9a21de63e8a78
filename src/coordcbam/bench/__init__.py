"""What the block costs beside other attention blocks: everyone takes turns in one run."""

from coordcbam.bench.blocks import inference, training
from coordcbam.bench.cases import LAYOUTS, SIZES, Case, Size, layout_from, size_from
from coordcbam.bench.detector import Detector, Host
from coordcbam.bench.peers import NOTEBOOK, Contender, Skipped, contenders
from coordcbam.bench.plan import MODES, Job, jobs, modes_from
from coordcbam.bench.rows import COLUMNS, Row, machine, versions, write_csv
from coordcbam.bench.table import over, table_of
from coordcbam.bench.timing import Length, keep_memory, threads

__all__ = [
    "COLUMNS",
    "LAYOUTS",
    "MODES",
    "NOTEBOOK",
    "SIZES",
    "Case",
    "Contender",
    "Detector",
    "Host",
    "Job",
    "Length",
    "Row",
    "Size",
    "Skipped",
    "contenders",
    "inference",
    "jobs",
    "keep_memory",
    "layout_from",
    "machine",
    "modes_from",
    "over",
    "size_from",
    "table_of",
    "threads",
    "training",
    "versions",
    "write_csv",
]
