"""Numbers by epoch, as a host's training leaves them: ``metrics.csv``, or a host's own file."""

import csv
from pathlib import Path

from coordcbam.records.lines import each_of, lines_of


def read_metrics(
    path: Path, problems: list[str], *, first_epoch: int = 0
) -> list[dict[str, float]]:
    """The rows of ``path``, without empty cells, by epochs from 0; an absent file has none."""
    if not path.is_file():
        return []
    header, lines = _table(path, problems)
    if "epoch" not in header:
        problems.append(f"{path.name} has no column 'epoch'")
        return []

    def row(line: str) -> dict[str, float]:
        values = {name: float(cell) for name, cell in _cells(header, line) if cell}
        epoch = float(int(values.pop("epoch")) - first_epoch)  # raises where it is no number
        return {"epoch": epoch, **values}

    return each_of(path, lines, row, problems, first=2)


def _table(path: Path, problems: list[str]) -> tuple[list[str], list[str]]:
    lines = lines_of(path, problems)
    return (
        ([name.strip() for name in next(csv.reader(lines[:1]))], lines[1:]) if lines else ([], [])
    )


def _cells(header: list[str], line: str) -> list[tuple[str, str]]:
    cells = next(csv.reader([line]))
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells for {len(header)} columns")
    return list(zip(header, cells, strict=True))
