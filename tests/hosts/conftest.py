"""One trained checkpoint for the whole session, shared by all workers, and small tools.

With random weights a YOLO's scores come from the biases of its head alone: every parity is zero,
also that of a lost block. So the parities are measured on trained weights, next to a control.
"""

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

pytest.importorskip("ultralytics")

import coordcbam as cc
from _support.offline import environment
from coordcbam.data import DigitsConfig, digits
from coordcbam.hosts.ultralytics import YOLO

SETTINGS: dict[str, Any] = {
    "imgsz": 128,
    "batch": 8,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 0.5,
    "mosaic": 0.0,
    "fliplr": 0.0,
    "scale": 0.2,
    "device": "cpu",
    "amp": False,
    "workers": 0,
    "plots": False,
    "seed": 0,
}

TRAINING = """
import json, sys
import torch
from ultralytics import SETTINGS
SETTINGS.update(tensorboard=sys.argv[4] == "True")
from coordcbam import BlockConfig
from coordcbam.hosts.ultralytics import YOLO
torch.manual_seed(0)
model = YOLO("yolo11n.yaml")
# Step 2, which acts from the first step on: after so few of them step 3 is near the identity.
model.insert("P3,P4,P5", BlockConfig.step2())
model.train(data=sys.argv[1], project=sys.argv[2], name="trained", epochs=12, val=False,
            single_cls=True, **json.loads(sys.argv[3]))
"""


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def small_data(shared_folder: Path) -> Path:
    """16 training and 8 validation images: two steps an epoch."""
    return digits(DigitsConfig(train=16, val=8), root=shared_folder / "digits")


@pytest.fixture(scope="session")
def trained(shared_folder: Path) -> Path:
    """The ``save_dir`` of a yolo11n with blocks at P3, P4, P5, trained until its scores count."""
    import importlib.util
    import json

    folder = shared_folder / "hosts"
    folder.mkdir(exist_ok=True)
    save_dir = folder / "trained"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            data = digits(DigitsConfig(train=96, val=16), root=shared_folder / "digits")
            tensorboard = importlib.util.find_spec("tensorboard") is not None
            subprocess.run(
                [
                    *(sys.executable, "-c", TRAINING),
                    *(str(data), str(folder), json.dumps(SETTINGS), str(tensorboard)),
                ],
                check=True,
                env=environment(folder / "config"),
                cwd=folder,
                capture_output=True,
                timeout=540,
            )
            (folder / "done").touch()
    return save_dir


@pytest.fixture(scope="session")
def trained_data(trained: Path, shared_folder: Path) -> Path:
    """The ``data.yaml`` that ``trained`` was trained on."""
    return digits(DigitsConfig(train=96, val=16), root=shared_folder / "digits")


@pytest.fixture(scope="session")
def pictures(trained_data: Path) -> list[Path]:
    """Validation images."""
    return sorted((trained_data.parent / "images" / "val").glob("*.png"))[:8]


@pytest.fixture(scope="session")
def batch(pictures: list[Path]) -> torch.Tensor:
    """The same images as a batch in [0, 1]."""
    arrays = [np.asarray(Image.open(path).convert("RGB")).copy() for path in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def best(trained: Path) -> Any:
    """``best.pt``, freshly loaded."""
    return YOLO(trained / "weights" / "best.pt")


@pytest.fixture
def settings(tmp_path: Path, small_data: Path) -> dict[str, Any]:
    """Arguments of ``train`` for a run of few seconds below ``tmp_path``."""
    return {
        **SETTINGS,
        "data": str(small_data),
        "epochs": 1,
        "project": str(tmp_path),
        "name": "run",
    }


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Counts the forwards of blocks: ``train`` and ``eval`` ones, bypassed ones not."""
    count = SimpleNamespace(train=0, eval=0)
    forward = cc.CoordCBAM.forward

    def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
        if not self.bypassed:
            name = "train" if self.training else "eval"
            setattr(count, name, getattr(count, name) + 1)
        return forward(self, x)

    monkeypatch.setattr(cc.CoordCBAM, "forward", counted)
    return count


@pytest.fixture
def fresh_process(tmp_path: Path) -> Callable[..., str]:
    """Run Python code in a new interpreter; returns its standard output."""

    def run(code: str, *arguments: Any, expect: int = 0) -> str:
        done = subprocess.run(  # noqa: PLW1510  (the status is asserted below)
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            env=environment(tmp_path / "config"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, done.stderr[-3000:]
        return done.stdout if expect == 0 else done.stderr

    return run


@contextlib.contextmanager
def _stopping_at(model: Any, event: str, times: int) -> Iterator[None]:
    seen = 0

    def stop(_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == times:
            raise InterruptedError("stopped by the test")

    model.add_callback(event, stop)
    with pytest.raises(InterruptedError):
        yield


@pytest.fixture
def stopping_at() -> Callable[..., Any]:
    """``with stopping_at(model, event, n): model.train(...)`` raises at the n-th ``event``."""
    return _stopping_at
