"""An earlier run's records out of the way, where another run begins in the same folder."""

import shutil
from pathlib import Path

from coordcbam.records.pictures import PICTURES
from coordcbam.records.schema import EVENTS, FOLDER, METRICS, MONITOR, RUN

PREVIOUS = "previous"


def set_aside(save_dir: Path) -> None:
    """Move the records below ``save_dir`` to ``coordcbam/previous/``, which holds one run.

    A folder without records stays as it is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as save_dir:
    ...     folder = Path(save_dir, "coordcbam")
    ...     folder.mkdir()
    ...     _ = (folder / "run.json").write_text("{}")
    ...     set_aside(Path(save_dir))
    ...     [path.relative_to(folder).as_posix() for path in folder.rglob("*.json")]
    ['previous/run.json']
    """
    folder = Path(save_dir) / FOLDER
    names = (RUN, METRICS, EVENTS, PICTURES, "pictures", "report.html")
    stem, _, suffix = MONITOR.rpartition(".")
    found = [path for name in names if (path := folder / name).exists()]
    found += sorted(folder.glob(f"{stem}*.{suffix}"))
    if not found:
        return
    target = folder / PREVIOUS
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in found:
        path.rename(target / path.name)
