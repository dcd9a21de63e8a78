"""Two processes know the same of their blocks, and what one process on both batches would know.

Where they do not, the ranks of a training apply different functions with the same weights.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import _ranks
import pytest
import torch
import torch.distributed as dist
from _scenarios import SCENARIOS, by_monitor
from torch import nn

import coordcbam as cc
from _support.shaken import closed, step3

HERE = Path(__file__).parent
LOOPBACK = {"linux": "lo", "darwin": "lo0"}.get(sys.platform, "")


@contextlib.contextmanager
def two_processes(folder, environment):
    """Start both ranks; inside, call what this gives for what they wrote. None outlives it."""
    paths = os.pathsep.join([environment["PYTHONPATH"], str(HERE.parent)])
    environment = {**environment, "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": LOOPBACK}
    program = [sys.executable, "-W", "error", str(HERE / "_ranks.py")]
    logs = [folder / f"{rank}.log" for rank in range(_ranks.RANKS)]
    processes = []

    def written():
        statuses = [process.wait(timeout=300) for process in processes]
        assert not any(statuses), "\n".join(log.read_text(encoding="utf-8") for log in logs)
        return [json.loads(log.with_suffix(".json").read_text(encoding="utf-8")) for log in logs]

    try:
        for rank, log in enumerate(logs):
            with log.open("w", encoding="utf-8") as file:
                words = [*program, str(rank), str(folder)]
                processes.append(subprocess.Popen(words, env=environment, stderr=file))
        yield written
    finally:
        for process in processes:
            process.kill()
            process.wait()


def apart(one, other):
    """The greatest difference between what two processes knew, in any block after any step."""
    known = [torch.tensor(trained["known"], dtype=torch.float64) for trained in (one, other)]
    return (known[0] - known[1]).abs().max().item()


def probed(one, other):
    """The relative difference between two trained networks' outputs."""
    return abs(one["probe"] - other["probe"]) / abs(one["probe"])


def counted(scenario, trained):
    """Whether updates and skipped steps are as they should be in every block, to the end."""
    return all(
        numbers[1:3] == [scenario.updates, scenario.skipped] for numbers in trained["known"][-1]
    )


def acted(scenario, trained):
    """Whether the rescue of every block acts at the end, or none does."""
    return all((numbers[3] < 0.74) == scenario.acts for numbers in trained["known"][-1])


def own_samples(scenario, ranks):
    """Whether each tally had the samples of its own rank before a commit, and none after.

    A pass that is computed again may end before the last block counts it a second time.
    """
    first = [{samples for samples, _ in rank["heard"][0]} for rank in ranks]
    wanted = [
        {float(passes * sum(sizes)) for passes in range(1, scenario.passes + 1)}
        for sizes in scenario.sizes
    ]
    own = all(found and found <= want for found, want in zip(first, wanted, strict=True))
    return own and not any(any(rank["left"]) for rank in ranks)


def unlike(ranks):
    """Whether the ranks' own ratios are so far apart that a lost one would show."""
    ours, theirs = (rank["heard"][0] for rank in ranks)
    return all(not abs(a[1] - b[1]) <= 1e-3 for a, b in zip(ours, theirs, strict=True))


def noted(scenario, ranks):
    """Whether rank 0 alone wrote, if a monitor was there, and of a fault on any rank."""
    monitored = scenario.closes is by_monitor
    skips = "skipped" in ranks[0]["events"]
    wrote = [rank["wrote"] for rank in ranks]
    return wrote == [monitored, False] and skips == (monitored and scenario.skipped > 0)


@pytest.mark.long
def test_two_processes_train_as_one(tmp_path, child_environment, figure):
    with two_processes(tmp_path, child_environment) as written_by_ranks:
        alone = {name: _ranks.train(s, tmp_path / "alone" / name) for name, s in SCENARIOS.items()}
        both = written_by_ranks()

    def failing(holds):
        trials = ((name, s, [rank[name] for rank in both]) for name, s in SCENARIOS.items())
        return [name for name, s, ranks in trials if not holds(s, ranks, alone[name])]

    assert not failing(lambda s, ranks, one: unlike(ranks))
    assert not failing(lambda s, ranks, one: apart(*ranks) == probed(*ranks) == 0.0)
    assert not failing(lambda s, ranks, one: counted(s, ranks[0]) and counted(s, one))
    assert not failing(lambda s, ranks, one: apart(ranks[0], one) <= 1e-6)
    assert not failing(lambda s, ranks, one: probed(ranks[0], one) <= 1e-6)
    assert not failing(lambda s, ranks, one: acted(s, ranks[0]))
    assert not failing(lambda s, ranks, one: own_samples(s, ranks))
    assert not failing(lambda s, ranks, one: all({*r["reductions"]} == {1} for r in ranks))
    assert not failing(lambda s, ranks, one: noted(s, ranks))
    worst = max(apart(both[0][name], alone[name]) for name in SCENARIOS)
    between = max(apart(both[0][name], both[1][name]) for name in SCENARIOS)
    count = f"{len(SCENARIOS)} scenarios"
    figure("two processes, between ranks", f"{between:g} over {count}", "0, >= 8 scenarios")
    figure("two processes, to one process", f"{worst:.1e} over {count}", "1e-6")


@pytest.mark.parametrize("built", [True, False])
def test_a_commit_needs_no_process_group(built, monkeypatch):
    """One process, and a torch that was built without its distributed part."""
    if not built:
        monkeypatch.setattr(dist, "is_available", lambda: False)
        monkeypatch.delattr(dist, "is_initialized")
    monkeypatch.setattr(dist, "all_reduce", None)
    block = closed(step3())
    block(torch.randn(2, 8, 5, 5))
    cc.commit_(block)
    assert block.updates == 1
    assert block.alpha_eff() < 0.74


def test_tallies_are_reduced_where_the_blocks_are():
    """NCCL knows no tensors of the CPU; and it waits, so all blocks share one call."""
    model = nn.Sequential(step3(), cc.Guard(nn.Tanh()), step3()).to("meta")
    with (
        mock.patch.object(dist, "is_initialized", return_value=True),
        mock.patch.object(dist, "all_reduce") as reduce,
    ):
        cc.commit_(model)
        cc.commit_(nn.Linear(1, 1))  # no blocks, nothing to agree on
    (tallies,) = [call.args[0] for call in reduce.call_args_list]
    assert tallies.is_meta
    assert tallies.shape[0] == 3


def test_a_block_that_gets_its_memory_late_starts_with_an_empty_tally(monkeypatch):
    """A large model is made without memory, given some, and loaded; no state has a tally."""
    with torch.device("meta"):
        block = step3()
    monkeypatch.setattr(torch, "empty_like", lambda t, **words: torch.full_like(t, 7, **words))
    block.to_empty(device="cpu")
    block.load_state_dict(step3().state_dict())
    assert not block.tally.any()
