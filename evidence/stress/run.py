"""Trials on a few processes, with a bar, and their files."""

import csv
import dataclasses
import io
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coordcbam._support.files import write_atomically
from evidence.stress.train import Settings, Trial, trial


def run(names: Sequence[str], seeds: int, settings: Settings, jobs: int) -> list[Trial]:
    """Every arm on seeds 0 to ``seeds - 1``, in ``jobs`` processes of one thread each.

    The trials are the same for any number of jobs, save for their seconds.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=120.0,  # arms differ tenfold in cost
    )
    context = multiprocessing.get_context("spawn")
    with bar, ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        line = bar.add_task("stress", total=len(names) * seeds)
        futures = [
            pool.submit(trial, name, seed, settings) for seed in range(seeds) for name in names
        ]
        try:
            for done in as_completed(futures):
                bar.update(line, advance=1, description=f"{done.result().arm:<24}")
        except BaseException:  # nobody waits for the other trials
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def write(
    folder: Path, trials: Sequence[Trial], settings: Settings, made: dict[str, Any]
) -> list[Path]:
    """``stress.csv``, a row an arm and seed with all it depends on, and ``stress.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {**dataclasses.asdict(settings), **made["versions"]}
    text = io.StringIO()
    rows = [{**dataclasses.asdict(one), **shared} for one in trials]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table, document = folder / "stress.csv", folder / "stress.json"
    write_atomically(table, text.getvalue())
    write_atomically(document, json.dumps(made, indent=1) + "\n")
    return [table, document]
