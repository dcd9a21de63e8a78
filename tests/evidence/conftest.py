"""The experiments live beside ``src``, in no installed package."""

import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


@pytest.fixture
def seen(monkeypatch):
    """The stacks that trials build, and every picture each was given while training."""
    from evidence.stress import train
    from evidence.stress.network import Stack

    made = []

    class Seen(Stack):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.given = []
            made.append(self)

        def forward(self, x):
            if self.training:
                self.given.append(x)
            return super().forward(x)

    monkeypatch.setattr(train, "Stack", Seen)
    return made


@pytest.fixture
def trials():
    from _stress import made_up

    rows = []
    for seed, base in enumerate([0.8, 0.7, 0.6, 0.9, 0.75, 0.65]):
        rows += [
            made_up("none", seed, base),
            made_up("timm cbam", seed, 0.3 if seed == 5 else 0.1),
            made_up("guarded cbam", seed, base - 0.1, fired=1.0 if seed else 0.4),
            made_up("step 3", seed, base, fired=0.0, weights=f"ours {seed}", gradient_gain=0.25),
            made_up("step 3, watched", seed, base, fired=0.0, weights=f"ours {seed}"),
            made_up("step 2", seed, base + (0.1 if seed % 2 else -0.1), log_stack_gain=2.0),
        ]
    return rows
