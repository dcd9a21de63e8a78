"""The preflight itself: every block at all places and at each alone, on copies, untrained."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from coordcbam._support.errors import UsageError, shown
from coordcbam._support.rng import fork_rng
from coordcbam.bench.rows import machine, versions
from coordcbam.insert.attach import check_model
from coordcbam.insert.plan import Places
from coordcbam.preflight import signal
from coordcbam.preflight.candidates import BLOCKS, NONE, Block, Candidate, candidates, words_of
from coordcbam.preflight.ground import Ground, Score, ground_of
from coordcbam.preflight.price import Price, added, parameters
from coordcbam.preflight.result import AloneRow, BlockRow, Preflight
from coordcbam.preflight.rows import Seen, block_row, place_rows
from coordcbam.preflight.trial import Outputs, Trial, everything
from coordcbam.preflight.verdict import tells, verdict

# (done, all, what is measured now); called before each measurement and after the last.
Progress: TypeAlias = Callable[[int, int, str], None]
ALONE = " alone"


def preflight(  # noqa: PLR0913
    model: nn.Module,
    batches: Iterable[Any],
    *,
    at: Places,
    blocks: str | Iterable[Block] = BLOCKS,
    score: Score | None = None,
    outputs: Outputs = everything,
    seeds: int = 3,
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Preflight:
    """Say what blocks would do to ``model``, before any training, on copies of it.

    The model is as before afterwards, bit for bit, and so are the states of PyTorch's, NumPy's and
    Python's random numbers. A layer that has a block keeps it, and the one on trial comes after it.

    Args:
        model: any module, trained or not.
        batches: a few inputs: tensors, or tuples of arguments; of images it was not trained on.
        at: places, as for :func:`coordcbam.insert_`: a path, a glob, several, or a predicate.
        blocks: words as for ``insert_(block=...)``, ``"none"`` (a control: what a hook costs), the
            presets ``"step1"`` to ``"step3"``, or configs. Of the default ones, a block whose
            library is absent is left out with a note.
        score: of a model, in eval mode; higher is better, so give ``lambda m: -loss(m)`` of a loss.
        outputs: picks from what the model returns what drift and gradient are of; leave out maps
            that a block at a place has made itself.
        seeds: how many times each block is drawn anew.
        about: what the document is to say of the model and the data.
        progress: told ``(done, all, what)``.

    Raises:
        PlaceError: a place that does not exist or cannot carry a block.
        UsageError: no such block, or one that does not run at a place; no batch; a score that is no
            number, or without blocks not finite; a model that cannot be copied, whose outputs are
            NaN, have nothing to compare, or have other shapes with blocks.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> found = preflight(model, [torch.ones(2, 3, 8, 8)], at="1", blocks="step3")
    >>> found.verdict
    'No block harms this model before any training. Not a bit of the outputs changes: step3.'
    """
    check_model(model)
    batches = _checked(batches)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UsageError(f"seeds={shown(seeds)}: expected an integer of 1 or more")
    if score is not None and not callable(score):
        raise UsageError(f"score={shown(score)}: expected a function of a model, or None")
    if not callable(outputs):
        raise UsageError(f"outputs={shown(outputs)}: expected a function of what a model returns")
    words = words_of(blocks)
    found, notes = candidates(words)
    started = time.monotonic()
    with fork_rng(*model.parameters()):
        ground, told = ground_of(model, at, batches, score, outputs)
        coming = _coming(found, len(ground.rows), seeds)
        ticks = _ticks(progress, coming)
        rows, fit = [], []
        for each in found:
            next(ticks)
            try:
                made = ground.trial(each, 0)
                first = _seen(ground, made)
            except UsageError as error:
                if tuple(words) != BLOCKS:  # who names a block wants it
                    raise
                told.append(f"skipped {each.name}: {error}")
                coming[:] = [name for name in coming if name.removesuffix(ALONE) != each.name]
                continue
            row, price = _at_all(ground, each, (made, first), seeds, ticks)
            rows.append(row)
            fit.append((each, price))
        alone = [_alone(ground, *each, ticks) for each in fit if each[0].name != NONE]
        for _ in ticks:  # tells the end
            pass
    singles = [single for several in alone for single in several]
    base = ground.score_before
    ranking = place_rows(ground.rows, singles, ground.gradients, by_score=tells(base))
    return Preflight(
        about={
            "model": type(model).__name__,
            "places": [{"path": row.path, "channels": row.channels} for row in ground.rows],
            "blocks": [row.block for row in rows],
            "seeds": seeds,
            "batches": [_shape(batch) for batch in batches],
            "versions": versions(),
            "machine": machine(),
            "seconds": round(time.monotonic() - started, 1),
            **(about or {}),
        },
        without={
            "score": base,
            "score_tells": tells(base),
            "parameters": parameters([model]),
            **ground.base.work._asdict(),
        },
        rows=tuple(rows),
        alone=tuple(row for row, _, _ in singles),
        ranking=tuple(ranking),
        verdict=verdict(rows, base),
        notes=(*notes, *told, *_unheard(rows)),
    )


def _unheard(rows: Iterable[BlockRow]) -> list[str]:
    """A note on blocks that change the signal where the outputs do not show it."""
    names = [
        row.block
        for row in rows
        if row.drift.high == 0.0 and any(place.std_ratio.mean != 1.0 for place in row.places)
    ]
    if not names:
        return []
    return [f"the outputs do not depend on what {', '.join(names)} changes: is the model trained?"]


def _seen(ground: Ground, made: Trial) -> Seen:
    """What there is to see of a trial but its score."""
    heard = signal.heard(made, ground.batches)
    return Seen(
        gains=heard.gains,
        drift=signal.drift(heard.outputs, ground.before.outputs),
        gradients=signal.gradients(made, ground.batches[0]),
    )


def _at_all(
    ground: Ground, of: Candidate, first: tuple[Trial, Seen], seeds: int, ticks: Iterator[None]
) -> tuple[BlockRow, Price]:
    """A block at all places, with every seed after the first; without weights there is one."""
    made, found = first
    next(ticks)
    price = added(made, ground.base, ground.batches[0])
    seen = [found._replace(score=ground.scored(made))]  # which may change its network
    for seed in range(1, 1 if of.what is None else seeds):
        next(ticks)
        made = ground.trial(of, seed)
        found = _seen(ground, made)
        seen.append(found._replace(score=ground.scored(made)))
    return block_row(ground, of, price, seen), price


def _alone(
    ground: Ground, of: Candidate, price: Price, ticks: Iterator[None]
) -> list[tuple[AloneRow, int, int]]:
    """A block of the first seed at each place alone, its parameters and its operations."""
    found = []
    for place in ground.rows:
        next(ticks)
        made = ground.trial(of, 0, [place.path])
        drift = signal.drift(signal.heard(made, ground.batches).outputs, ground.before.outputs)
        count = parameters(made.blocks.values())
        score, before = ground.scored(made), ground.score_before  # which may change its network
        shock = None if score is None or before is None else score - before
        row = AloneRow(block=of.name, path=place.path, drift=drift, score=score, shock=shock)
        found.append((row, count, price.flops_at[place.path]))
    return found


def _coming(found: Sequence[Candidate], places: int, seeds: int) -> list[str]:
    """What is measured: the seeds and the price of each block, then its places alone."""
    names = [
        name for each in found for name in [each.name] * (2 if each.what is None else seeds + 1)
    ]
    return names + [each.name + ALONE for each in found if each.name != NONE for _ in range(places)]


def _ticks(progress: Progress | None, coming: list[str]) -> Iterator[None]:
    """Each ``next`` takes the first of what is coming, which may shrink, and tells it."""
    done = 0
    while coming:
        name = coming.pop(0)
        if progress is not None:
            progress(done, done + 1 + len(coming), name)
        yield
        done += 1
    if progress is not None:
        progress(done, done, "done")


def _checked(batches: Iterable[Any]) -> list[Any]:
    """The batches as a list of at least one."""
    found = [batches] if isinstance(batches, Tensor) else batches
    if not isinstance(found, Iterable) or not (found := list(found)):
        raise UsageError(f"batches={shown(batches)}: expected one or more inputs of the model")
    return found


def _shape(batch: Any) -> Any:
    first = batch[0] if isinstance(batch, tuple) and batch else batch
    return list(first.shape) if isinstance(first, Tensor) else type(first).__name__
