"""Exports of trained weights in every format that can be made and run here."""

import copy
import gc
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coordcbam as cc
from coordcbam.hosts.ultralytics import YOLO

# What a format needs, and its arguments.
FORMATS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "torchscript": ((), {}),
    "onnx": (("onnx", "onnxruntime"), {"simplify": False}),
    "onnx, dynamic": (("onnx", "onnxruntime"), {"simplify": False, "dynamic": True}),
    "openvino": (("openvino",), {}),
    "ncnn": (("ncnn", "pnnx"), {}),
    "litert": (("litert_torch",), {}),
    "coreml": (("coremltools",), {}),
}
BOXES, SCORES = 5e-3, 5e-5  # pixels and scores: what an exact runtime may be off


def outputs(path: str | Path, batch: torch.Tensor) -> np.ndarray:
    """What an export makes of one picture, in full precision: runtimes take less where they may."""
    if str(path).endswith("_openvino_model"):
        openvino = importlib.import_module("openvino")
        model = openvino.Core().read_model(next(Path(path).glob("*.xml")))
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.asarray(compiled(batch.numpy())[0])
    if str(path).endswith("_ncnn_model"):
        return of_ncnn(Path(path), batch)
    from ultralytics.nn.autobackend import AutoBackend

    backend = AutoBackend(str(path), device=torch.device("cpu"), fp16=False)
    with torch.no_grad():
        out = backend(batch)
    return np.asarray(out[0] if isinstance(out, (list, tuple)) else out)


def of_ncnn(folder: Path, batch: torch.Tensor) -> np.ndarray:
    ncnn = importlib.import_module("ncnn")
    with ncnn.Net() as net:
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        net.load_param(str(folder / "model.ncnn.param"))
        net.load_model(str(folder / "model.ncnn.bin"))
        with net.create_extractor() as run:
            run.input(net.input_names()[0], ncnn.Mat(batch[0].numpy()))
            return np.array(run.extract(net.output_names()[0])[1])[None]


def apart(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    difference = np.abs(a - b)
    return float(difference[:, :4].max()), float(difference[:, 4:].max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_the_blocks_are_in_it(
    name: str, best: Any, batch: torch.Tensor, tmp_path: Path, counted: Any
) -> None:
    counted("formats verified", f"{name}: failed")
    needed, arguments = FORMATS[name]
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    if absent:
        reason = f"{' and '.join(absent)} not installed"
        counted("formats verified", f"{name}: skipped, {reason}")
        pytest.skip(reason)
    one = batch[:1]
    network = best.model.float().eval()
    with torch.no_grad():
        full = network(one)[0].numpy()
        with cc.bypass(network):
            bare = network(one)[0].numpy()
    os.chdir(tmp_path)

    def exported(model: Any, file: str) -> np.ndarray:
        model.save(tmp_path / file)
        path = YOLO(tmp_path / file).export(
            format=name.partition(",")[0], imgsz=128, device="cpu", **arguments
        )
        return outputs(path, one)

    without = copy.deepcopy(best)
    without.remove()
    try:
        stock = apart(exported(without, "without.pt"), bare)
    except Exception as error:  # not ours to mend: the network without blocks cannot be exported
        reason = " ".join(str(error).split())[:160]
        counted("formats verified", f"{name}: skipped, without blocks too: {reason}")
        pytest.skip(reason)
    ours = exported(best, "with.pt")
    gc.collect()  # what the exporters leave open is not the next test's
    near, far, lost = apart(ours, full), apart(full, bare), apart(ours, bare)
    counted(
        "formats verified",
        f"{name}: {near[0]:.2g} px, {near[1]:.2g} off (the same network without blocks "
        f"{stock[0]:.2g} px, {stock[1]:.2g}); bypassed {far[0]:.3g} px, {far[1]:.2g}",
    )
    # Not further off than the format is by itself, and the network's output, not the bypassed one's.
    assert near[0] <= max(BOXES, 1.5 * stock[0])
    assert near[1] <= max(SCORES, 1.5 * stock[1])
    assert lost[1] >= 3.0 * near[1]
