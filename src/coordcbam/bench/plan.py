"""The modes, and the list of jobs that a choice of modes, sizes and layouts comes to."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

from coordcbam._support.errors import UsageError, nearest, shown
from coordcbam.bench import blocks, detector, graphs, memory, watching
from coordcbam.bench.cases import Case, Size
from coordcbam.bench.peers import Contender, Skipped
from coordcbam.bench.rows import Row
from coordcbam.bench.timing import Length

MODES = ("inference", "training", "saved", "peak", "onnx", "yolo", "monitor")
# Graphs have no layouts to choose from, and what watching costs is asked about one.
ONE_LAYOUT = ("onnx", "yolo", "monitor")
PICTURE: Size = (1, 3, 640, 640)
# A forward of a whole network takes as long as many of a block; so do its rounds.
NETWORKS = 4.0
EXPORT = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Something to measure: for how long it is expected to go on, in seconds, and how."""

    title: str
    weight: float
    run: Callable[[], list[Row]]


def modes_from(words: Iterable[str]) -> list[str]:
    """The modes of these names, in our order.

    Raises:
        UsageError: no such mode.

    >>> modes_from(["saved", "training"])
    ['training', 'saved']
    """
    asked = set(words)
    for word in sorted(asked - set(MODES)):
        raise UsageError(f"mode {shown(word)}: expected one of {nearest(word, MODES)}")
    return [mode for mode in MODES if mode in asked]


def jobs(
    modes: Sequence[str],
    sizes: Sequence[Size],
    layouts: Sequence[str],
    among: Sequence[Contender],
    length: Length,
    host: detector.Host | None = None,
) -> tuple[list[Job], list[Skipped]]:
    """What to run, and what cannot be: ``host`` is who builds a whole detector, if anyone."""
    absent = graphs.missing()
    reasons: dict[str, str | None] = {
        "onnx": absent,
        "yolo": "nobody here builds a detector" if host is None else None,
    }
    skipped = [Skipped(mode, reason) for mode in modes if (reason := reasons.get(mode))]
    left = [mode for mode in modes if not reasons.get(mode)]
    if "yolo" in left and absent:
        skipped.append(Skipped("yolo onnx", absent))
    found = []
    for mode in left:
        if mode == "yolo":
            assert host is not None
            found += _of_detector(host, among, length, exported=not absent)
            continue
        for size in sizes:
            for layout in layouts[:1] if mode in ONE_LAYOUT else layouts:
                case = Case(size=size, layout="NCHW" if mode == "onnx" else layout)
                found.append(_of_block(mode, case, among, length))
    return found, skipped


def _of_block(mode: str, case: Case, among: Sequence[Contender], length: Length) -> Job:
    timed = {
        "inference": blocks.inference,
        "training": blocks.training,
        "onnx": graphs.onnx,
        "monitor": watching.monitor,
    }
    counted = {"saved": memory.saved, "peak": memory.peak}
    title = f"{mode} {case.shape} {case.layout}"
    if mode in counted:
        return Job(title=title, weight=1.0, run=functools.partial(counted[mode], case, among))
    run = functools.partial(timed[mode], case, among, length)
    weight = length.seconds
    if mode == "monitor":  # each of ours has rounds of its own
        weight *= sum(each.config is not None for each in among)
    elif mode == "onnx":
        weight += EXPORT * len(among)
    return Job(title=title, weight=weight, run=run)


def _of_detector(
    host: detector.Host, among: Sequence[Contender], length: Length, *, exported: bool
) -> list[Job]:
    case = Case(size=PICTURE)
    longer = dataclasses.replace(length, seconds=NETWORKS * length.seconds)
    ways = {"eager": (detector.eager, 5.0), **({"onnx": (detector.onnx, 60.0)} if exported else {})}
    return [
        Job(
            title=f"yolo {way}",
            weight=longer.seconds + builds,
            run=functools.partial(run, host, case, among, longer),
        )
        for way, (run, builds) in ways.items()
    ]
