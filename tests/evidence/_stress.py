"""A small experiment, and trials whose statistics are known."""

import dataclasses

from evidence.stress.arms import ARMS
from evidence.stress.network import Stack
from evidence.stress.train import Settings, Trial

TINY = Settings(depth=2, channels=8, steps=2, batch=4)
VERSIONS = {"torch": "2", "timm": "1", "coordcbam": "0"}


def stack(name, seed=0, settings=TINY):
    build = ARMS[name].build
    return Stack(build, channels=settings.channels, depth=settings.depth, seed=seed)


def without_seconds(one):
    return dataclasses.replace(one, cpu_seconds=0.0)


def made_up(arm, seed, accuracy, **changed):
    values = {
        "loss": 1.0,
        "fired": None,
        "gradient_gain": 0.5,
        "log_stack_gain": -2.0,
        "parameters": 7,
        "weights": f"{arm} {seed}",
        "cpu_seconds": 1.0,
    }
    return Trial(arm=arm, seed=seed, accuracy=accuracy, **{**values, **changed})


def by_name(rows):
    return {row[0]: row[1:] for row in rows}
