"""Exports of trained weights in every format that can be made and run here."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _support import exported
from _support.offline import environment
from _support.overlay import InstallError, overlay

# What a format needs beside the development environment: the versions that Ultralytics asks for.
FORMATS: dict[str, tuple[str, ...]] = {
    "torchscript": (),
    "onnx": (),
    "onnx, dynamic": (),
    "openvino": ("openvino>=2024.0.0",),
    "ncnn": ("ncnn", "pnnx==20260526"),
    "litert": ("litert-torch>=0.10.0", "ai-edge-litert>=2.3.0"),
    "coreml": ("coremltools>=9.0", "numpy>=1.14.5,<=2.3.5"),
}
ENVIRONMENTS = Path(__file__).parents[3] / "build" / "formats"
BOXES, SCORES = 5e-3, 5e-5  # pixels and scores: what an exact runtime may be off


@pytest.mark.parametrize("name", FORMATS)
def test_the_blocks_are_in_it(
    name: str, trained: Path, batch: torch.Tensor, tmp_path: Path, counted: Any
) -> None:
    def told(text: str) -> None:
        counted("formats verified", f"{name}: {text}")

    def skipped(reason: str) -> None:
        told(f"skipped, {reason}")
        pytest.skip(reason)

    told("failed")
    try:
        python = overlay(ENVIRONMENTS / name.partition(",")[0], FORMATS[name])
    except InstallError as error:
        skipped(f"the installer says: {error}")
    np.save(tmp_path / "batch.npy", batch[:1].numpy())
    run = subprocess.run(  # noqa: PLW1510  (what it says is part of the failure)
        [python, exported.__file__, name, str(trained / "weights" / "best.pt"), "batch.npy"],
        cwd=tmp_path,
        env=environment(tmp_path / "config"),
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    if "stock fails" in found:
        skipped(f"without blocks too: {found['stock fails']}")
    if "operations" in found:
        stock, ours = found["operations"]
        told(f"{ours} operations, {stock} without blocks; only macOS can run it")
        assert ours > stock
        return
    near, far, lost, bare = (found[key] for key in ("near", "far", "lost", "stock"))
    told(
        f"{near[0]:.2g} px, {near[1]:.2g} off (the same network without blocks {bare[0]:.2g} px, "
        f"{bare[1]:.2g}); bypassed {far[0]:.3g} px, {far[1]:.2g}"
    )
    # Not further off than the format is by itself, and the network's output, not the bypassed one's.
    assert near[0] <= max(BOXES, 1.5 * bare[0])
    assert near[1] <= max(SCORES, 1.5 * bare[1])
    assert lost[1] >= 30.0 * near[1]
