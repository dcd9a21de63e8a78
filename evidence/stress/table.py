"""From trials to one document, and from the document to a table's cells."""

import dataclasses
import math
import platform
from collections.abc import Iterable, Sequence
from typing import Any

import timm
import torch

from coordcbam import __version__
from evidence.stress.arms import ARMS
from evidence.stress.statistics import compare, least_p
from evidence.stress.train import LAST, Settings, Trial

# What each pair asks; the first arm minus the second.
PAIRS = (
    ("step 2", "step 1", "do softened gates help?"),
    ("step 3", "step 2", "do centred gates help?"),
    ("step 3", "control", "is it the attention, or the parameters?"),
    ("step 3", "ReZero coord", "against another block of gain 1"),
    ("step 3", "SE x2", "against another block of gain 1"),
    ("guarded cbam", "timm cbam", "does a guard save a foreign block?"),
    ("guarded coord", "timm coord", "does a guard save a foreign block?"),
    ("guarded cbam", "x 0.9", "is it the guarded block, or the damping?"),
    ("guarded coord", "x 0.9", "is it the guarded block, or the damping?"),
    ("step 3", "step 3, watched", "does an idle rescue change a healthy block?"),
    ("step 2, monitored", "step 2", "does the notebook's rescue act at its defaults?"),
    ("closed step 3, rescued", "closed step 3, watched", "does the rescue open closed gates?"),
    (
        "closed step 3, rescued",
        "closed step 2, monitored",
        "our rescue against the notebook's, gates closed",
    ),
)
ARM_HEAD = (
    "arm",
    "accuracy [least, greatest]",
    "failed",
    "minus none [95 % interval]",
    "p",
    "reads",
)
SIGNAL_HEAD = (
    "arm",
    "parameters a block",
    "training loss",
    "rescue acts",
    "gradient gain",
    "abs log gain",
)
PAIR_HEAD = ("pair", "question", "difference [95 % interval]", "p", "reads")


def versions() -> dict[str, str]:
    """What the numbers depend on besides the settings."""
    return {
        "coordcbam": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def document(
    trials: Iterable[Trial], settings: Settings, made_with: dict[str, str]
) -> dict[str, Any]:
    """Arms and pairs with their statistics; plain data, alike for the same trials.

    Only pairs whose two arms were run are there.
    """
    by_arm: dict[str, list[Trial]] = {}
    for one in sorted(trials, key=lambda one: one.seed):
        by_arm.setdefault(one.arm, []).append(one)
    seeds = len(next(iter(by_arm.values())))
    return {
        "settings": dataclasses.asdict(settings),
        "versions": made_with,
        "seeds": seeds,
        "least_p": least_p(seeds),
        "cpu_seconds": sum(one.cpu_seconds for found in by_arm.values() for one in found),
        "arms": [_arm(name, by_arm, settings) for name in ARMS if name in by_arm],
        "pairs": [
            {"pair": [a, b], "question": question, **_difference(by_arm[a], by_arm[b])}
            for a, b, question in PAIRS
            if a in by_arm and b in by_arm
        ],
    }


def _arm(name: str, by_arm: dict[str, list[Trial]], settings: Settings) -> dict[str, Any]:
    found = by_arm[name]
    accuracies = [one.accuracy for one in found]
    fired = [one.fired for one in found if one.fired is not None]
    return {
        "arm": name,
        "what": ARMS[name].what,
        "parameters": found[0].parameters,
        "accuracy": _mean(accuracies),
        "accuracy_min": min(accuracies),
        "accuracy_max": max(accuracies),
        "loss": _mean([one.loss for one in found]),
        "failed": sum(accuracy < settings.failed_below for accuracy in accuracies),
        "fired": _mean(fired) if fired else None,
        "gradient_gain": math.exp(_mean([math.log(one.gradient_gain) for one in found])),
        "abs_log_stack_gain": _mean([abs(one.log_stack_gain) for one in found]),
        "minus_none": None if name == "none" else _difference(found, by_arm["none"]),
    }


def _difference(after: Sequence[Trial], before: Sequence[Trial]) -> dict[str, Any]:
    """The paired statistics of accuracy; ``identical`` where every seed ended in equal weights."""
    found = compare([one.accuracy for one in after], [one.accuracy for one in before])._asdict()
    same = all(
        (a.weights, a.accuracy) == (b.weights, b.accuracy)
        for a, b in zip(after, before, strict=True)
    )
    return {**found, "verdict": "identical"} if same else found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def arm_rows(made: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells under ``ARM_HEAD``."""
    return [
        (
            arm["arm"],
            f"{arm['accuracy']:.3f} [{arm['accuracy_min']:.2f}, {arm['accuracy_max']:.2f}]",
            f"{arm['failed']}/{made['seeds']}",
            *_cells(arm["minus_none"]),
        )
        for arm in made["arms"]
    ]


def signal_rows(made: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells under ``SIGNAL_HEAD``."""
    return [
        (
            arm["arm"],
            str(arm["parameters"]),
            f"{arm['loss']:.2f}",
            "–" if arm["fired"] is None else f"{arm['fired']:.0%}",
            f"{arm['gradient_gain']:.2g}",
            f"{arm['abs_log_stack_gain']:.2f}",
        )
        for arm in made["arms"]
    ]


def pair_rows(made: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells under ``PAIR_HEAD``."""
    return [(" − ".join(pair["pair"]), pair["question"], *_cells(pair)) for pair in made["pairs"]]


def _cells(difference: dict[str, Any] | None) -> tuple[str, str, str]:
    if difference is None:
        return "", "", ""
    ends = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{difference['mean']:+.3f} {ends}", f"{difference['p']:.3f}", difference["verdict"]


def remarks(made: dict[str, Any]) -> list[str]:
    """What has to be known to read the two tables."""
    settings = made["settings"]
    tests = sum(arm["minus_none"] is not None for arm in made["arms"]) + len(made["pairs"])
    few = (
        f"With {made['seeds']} seeds p cannot go below {made['least_p']:.3g}, and none of the "
        f"{tests} tests is corrected for the others. The intervals are too narrow for so few."
    )
    words = (
        "An interval that includes 0 reads 'no difference shown'; 'identical' is equal weights and "
        "equal accuracy on every seed."
    )
    columns = (
        f"Failed: accuracy below {settings['failed_below']}. Training loss: mean of the last "
        f"{LAST} steps. Rescue acts: share of steps with alpha_eff below alpha in any block; – "
        "where nothing is measured. Gradient gain (from the last block's output to the stem's) and "
        "the log of the stack's RMS gain: at step 0."
    )
    return [few, words, columns]
