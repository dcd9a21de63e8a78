"""How far an export lies from its network: ``python exported.py FORMAT best.pt batch.npy``, JSON.

A program of its own: a format's packages may need an environment of their own.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import coordcbam as cc
from coordcbam.hosts.ultralytics import YOLO

ARGUMENTS: dict[str, dict[str, Any]] = {
    "onnx": {"simplify": False},
    "onnx, dynamic": {"simplify": False, "dynamic": True},
}


def of_openvino(folder: Path, batch: torch.Tensor) -> np.ndarray:
    openvino = importlib.import_module("openvino")
    model = openvino.Core().read_model(next(folder.glob("*.xml")))
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(batch.numpy())[0])


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


def outputs(path: str, batch: torch.Tensor) -> np.ndarray:
    """What an export makes of one picture, in full precision: runtimes take less where they may."""
    for kind, reader in {"_openvino_model": of_openvino, "_ncnn_model": of_ncnn}.items():
        if path.endswith(kind):
            return reader(Path(path), batch)
    from ultralytics.nn.autobackend import AutoBackend

    backend = AutoBackend(path, device=torch.device("cpu"), fp16=False)
    with torch.no_grad():
        out = backend(batch)
    return np.asarray(out[0] if isinstance(out, (list, tuple)) else out)


def operations(path: str) -> int:
    """How many operations a Core ML package holds: only macOS can run one."""
    tools = importlib.import_module("coremltools")
    program = tools.models.MLModel(path, skip_model_load=True).get_spec().mlProgram
    (function,) = program.functions.values()
    (block,) = function.block_specializations.values()
    return len(block.operations)


def apart(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The farthest box, in pixels, and the farthest score."""
    difference = np.abs(a - b)
    return float(difference[:, :4].max()), float(difference[:, 4:].max())


def main(form: str, checkpoint: str, batch_file: str) -> dict[str, Any]:
    """``near``, ``far``, ``lost``, ``stock`` as pixels and scores; ``operations`` for Core ML."""
    batch = torch.from_numpy(np.load(batch_file))
    best, without = YOLO(checkpoint), YOLO(checkpoint)
    without.remove()
    network = best.model.float().eval()
    with torch.no_grad():
        full = network(batch)[0].numpy()
        with cc.bypass(network):
            bare = network(batch)[0].numpy()

    def exported(model: Any, file: str) -> str:
        model.save(file)
        words = ARGUMENTS.get(form, {})
        kind = form.partition(",")[0]
        return str(YOLO(file).export(format=kind, imgsz=128, device="cpu", **words))

    try:
        stock = exported(without, "without.pt")
    except Exception as error:  # whatever it is, it is not the blocks
        return {"stock fails": " ".join(f"{type(error).__name__}: {error}".split())[:160]}
    ours = exported(best, "with.pt")
    if form == "coreml":
        return {"operations": (operations(stock), operations(ours))}
    made = outputs(ours, batch)
    return {
        "near": apart(made, full),
        "lost": apart(made, bare),
        "far": apart(full, bare),
        "stock": apart(outputs(stock, batch), bare),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    found = main(*sys.argv[1:])
    print(f"\n{json.dumps(found)}")
