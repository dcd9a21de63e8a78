"""Writing files so that a killed process leaves the old one or the new one, never half of one."""

import contextlib
import os
import tempfile
from pathlib import Path

from coordcbam._support.errors import UsageError


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write ``data`` to a temporary neighbour of ``path`` and rename it into place.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "run.json"
    ...     write_atomically(target, "{}")
    ...     target.read_text(), len(list(target.parent.iterdir()))
    ('{}', 1)
    """
    raw = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the mode an ordinary write would have.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def check_writable(folder: Path) -> None:
    """Raise unless something can be written into ``folder``, or into what will hold it.

    Raises:
        UsageError: nothing can.
    """
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryDirectory(dir=there, prefix=".coordcbam-"):
            pass
    except OSError as error:
        raise UsageError(
            f"nothing can be written to {folder} ({error.strerror}): choose another folder"
        ) from None
