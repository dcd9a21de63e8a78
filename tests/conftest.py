"""Every test: offline, one thread, a fixed seed, and uninitialised memory that shows itself.

pytest puts this folder on ``sys.path`` (it holds the root conftest and no ``__init__.py``), so tests
import shared helpers as ``from _support import ...``.
"""

import os
import sys
import tempfile
from pathlib import Path

from _support.offline import without_trackers

# Before anything imports ultralytics: it reads these once, at import.
os.environ["YOLO_OFFLINE"] = "1"
os.environ["YOLO_AUTOINSTALL"] = "0"
os.environ["YOLO_VERBOSE"] = "false"
if "YOLO_CONFIG_DIR" not in os.environ:
    os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="coordcbam-tests-")
    without_trackers(Path(os.environ["YOLO_CONFIG_DIR"]))

import pytest

ARITHMETIC = {"block", "kernels", "notebook", "insert", "monitor"}


@pytest.fixture(autouse=True)
def _reproducible(request):
    """One seed and one thread; in the rooms of arithmetic ``torch.empty`` and friends are NaN."""
    torch = sys.modules.get("torch")  # rooms without torch stay without it
    if torch is None:
        yield
        return
    torch.manual_seed(0)
    torch.set_num_threads(1)
    strict = request.path.parent.name in ARITHMETIC
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if strict:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    if strict:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture
def child_environment():
    """The environment for a fresh interpreter that finds this very package, installed or not."""
    import coordcbam

    source = str(Path(coordcbam.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}
