"""``_ranks.py RANK FOLDER``: one of two processes that train every scenario together.

It writes what came out to ``FOLDER/RANK.json``.
"""

import contextlib
import datetime as dt
import json
import sys
import warnings
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from _scenarios import PROBE, SCENARIOS, STEPS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import coordcbam as cc
from coordcbam.block import Stats

RANKS = 2
KNOWN = ("r_ema", "updates", "skipped")  # and alpha_eff


def train(scenario, folder, rank=None):
    """What the blocks know step by step; without a rank, of one process on the joined batches."""
    torch.manual_seed(0)
    model = scenario.make().train()
    for layer in model.modules():
        layer.training &= not isinstance(layer, nn.BatchNorm2d)  # its batch is one rank's
    if scenario.ddp and scenario.ddp["find_unused_parameters"]:
        model.unused = nn.Conv2d(1, 1, 1)
    trained = model if rank is None else _parallel(model, scenario.ddp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    out = Path(folder) / str(rank)
    with scenario.closes(model, optimizer, out) as close:
        steps = [_step(scenario, i, rank, trained, optimizer, close) for i in range(STEPS)]
    return {
        **{key: [step[key] for step in steps] for key in steps[0]},
        "probe": model.eval()(PROBE).double().norm().item(),
        "events": [
            json.loads(line)["kind"]
            for path in out.rglob("events.jsonl")
            for line in path.read_text(encoding="utf-8").splitlines()
        ],
        "wrote": out.exists(),
    }


def _parallel(model, options):
    if options is None:
        return model
    with warnings.catch_warnings():
        # Newer versions of torch rename an option that the oldest we support needs.
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        return DistributedDataParallel(model, **options)


def _step(scenario, i, rank, model, optimizer, close):
    """One step as mixed precision takes it: the weights stay where a gradient is not finite."""
    optimizer.zero_grad()
    shares = [scenario.batches(i, r) for r in range(RANKS)]
    everything = [x for share in shares for x in share]
    alone = [torch.cat(everything)] if scenario.joined else everything
    _learn(model, shares, alone if rank is None else shares[rank])
    blocks = [block for _, block in cc.blocks(model)]
    heard = [[block.tally[1].item(), Stats(*block.stats.tolist()).rho] for block in blocks]
    with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduce:
        if scenario.ddp is not None and _finite(model):
            optimizer.step()
        close()
    return {
        "known": [
            [getattr(b, name).item() for name in KNOWN] + [b.alpha_eff().item()] for b in blocks
        ],
        "heard": heard,  # samples in this rank's tally, and rho of its last micro-batch
        "reductions": reduce.call_count,
        "left": sum(block.tally.abs().sum().item() for block in blocks),
    }


def _learn(model, shares, mine):
    """Gradients of the mean loss over the samples of all ranks."""
    parallel = isinstance(model, DistributedDataParallel)  # which takes the mean of the ranks
    scale = sum(len(x) for share in shares for x in share) / (RANKS if parallel else 1)
    # Each micro-batch is synchronised, as Ultralytics does it, where the ranks have as many.
    unequal = parallel and len({len(share) for share in shares}) > 1
    for k, x in enumerate(mine):
        with model.no_sync() if unequal and k < len(mine) - 1 else contextlib.nullcontext():
            (model(x).square().flatten(1).mean(dim=1).sum() / scale).backward()


def _finite(model):
    return all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def main():
    """Meet the other rank, train, write."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=RANKS,
        timeout=dt.timedelta(seconds=120),
    )
    done = {
        name: train(scenario, folder / str(i), rank)
        for i, (name, scenario) in enumerate(SCENARIOS.items())
    }
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main()
