"""How long a page takes to build, and how much memory: 20 blocks x 100,000 readings each.

    python benchmarks/report.py [--blocks 20] [--readings 100000] [--epochs 300]

The records are written first, with every column that the monitor writes; each build is a process of
its own. Rows are in ``benchmarks/results/report.csv``; the unit of the ratio is reading the same
file's bytes and counting its lines.
"""

import argparse
import csv
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from coordcbam._version import __version__
from coordcbam.block import Stats
from coordcbam.records import Place, RunInfo, RunWriter

RESULTS = Path(__file__).parent / "results" / "report.csv"
BUILD = """
import resource, sys, time
from pathlib import Path
begun = time.perf_counter()
from coordcbam.report import build_report
page = build_report(Path(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.perf_counter() - begun, peak / 1024, page.stat().st_size / 1e6)
"""
ROUNDS = 3


def write(folder: Path, blocks: int, readings: int, epochs: int) -> int:
    """A run's records; the size of its monitor.csv."""
    draw = random.Random(0)
    names = [f"model.{index}" for index in range(blocks)]
    places = tuple(Place(path=name, channels=64, parameters=15_288) for name in names)
    info = RunInfo(host="benchmark", places=places, config={}, versions={})
    pool = [[draw.uniform(0.3, 1.2) for _ in Stats._fields] for _ in range(997)]
    pool[5] = [math.nan for _ in Stats._fields]
    with RunWriter(folder, info, Stats._fields) as writer:
        for step in range(readings):
            rows = {name: pool[(step * 31 + i * 7) % len(pool)] for i, name in enumerate(names)}
            writer.rows(step * 10, step * epochs // readings, step * 0.37, rows)
    with RunWriter(folder, info, Stats._fields) as writer:
        for epoch in range(epochs):
            writer.metrics(
                epoch, {"mAP50-95": epoch / epochs, "train/box_loss": 2 - epoch / epochs}
            )
    return (folder / "monitor.csv").stat().st_size


def counted(path: Path) -> float:
    """Seconds to read the bytes and count the lines."""
    begun = time.perf_counter()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            chunk.count(b"\n")
    return time.perf_counter() - begun


def main() -> None:
    """Write, build in turns with counting, and append a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--readings", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp, "coordcbam")
        size = write(folder, args.blocks, args.readings, args.epochs)
        built, bare = [], []
        for _ in range(ROUNDS):
            bare.append(counted(folder / "monitor.csv"))
            words = [sys.executable, "-c", BUILD, str(folder)]
            run = subprocess.run(words, check=True, capture_output=True, text=True)
            built.append(tuple(map(float, run.stdout.split())))
    seconds, peak, page = sorted(built)[ROUNDS // 2]
    row = {
        "coordcbam": __version__,
        "blocks": args.blocks,
        "readings": args.readings,
        "csv_mb": round(size / 1e6, 1),
        "seconds": round(seconds, 2),
        "ratio_to_counting_lines": round(seconds / sorted(bare)[ROUNDS // 2], 1),
        "peak_mib": round(peak),
        "page_mb": round(page, 2),
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
