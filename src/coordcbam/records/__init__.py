"""The file format of a run: typed rows, reader, writer."""

from coordcbam.records.earlier import set_aside
from coordcbam.records.pictures import PICTURES, Picture, read_pictures, write_pictures
from coordcbam.records.reader import read_run
from coordcbam.records.reading import STRONGLY, SUPPRESSING, Verdict, read_row, signal_kept, verdict
from coordcbam.records.run import Run
from coordcbam.records.schema import FORMAT, Event, MonitorRow, Place, RunInfo
from coordcbam.records.writer import RunWriter

__all__ = [
    "FORMAT",
    "PICTURES",
    "STRONGLY",
    "SUPPRESSING",
    "Event",
    "MonitorRow",
    "Picture",
    "Place",
    "Run",
    "RunInfo",
    "RunWriter",
    "Verdict",
    "read_pictures",
    "read_row",
    "read_run",
    "set_aside",
    "signal_kept",
    "verdict",
    "write_pictures",
]
