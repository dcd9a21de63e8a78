"""Read the blocks' numbers on a schedule, diagnose them and write records."""

from coordcbam.monitor.diagnose import Diagnosis
from coordcbam.monitor.monitor import Monitor
from coordcbam.monitor.reading import read

__all__ = ["Diagnosis", "Monitor", "read"]
