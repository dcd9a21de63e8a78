"""Opening a file of lines for more lines, after a run that may have been killed."""

import os
from pathlib import Path

_CHUNK = 1 << 16


def continue_file(path: Path, header: bytes) -> None:
    r"""Leave ``path`` beginning with ``header`` and ending in a newline, losing no whole line.

    A torn last line is cut off. A file with another header is kept under the next free name
    (``monitor.1.csv``) and a new one begun.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "monitor.csv"
    ...     _ = path.write_bytes(b"step\n1\n2")
    ...     continue_file(path, b"step\n")
    ...     path.read_bytes()
    b'step\n1\n'
    """
    if path.exists():
        _cut_torn_line(path)
        with path.open("rb") as file:
            begins = file.read(len(header))
        if begins == header:
            return
        if begins:
            path.rename(_free_name(path))
    path.write_bytes(header)


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = keep = file.seek(0, os.SEEK_END)
        while keep > 0:
            start = max(0, keep - _CHUNK)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            keep = start + newline + 1
            if newline >= 0:
                break
        if keep < end:
            file.truncate(keep)


def _free_name(path: Path) -> Path:
    number = 1
    while (other := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return other
