"""A preflight of every task of Ultralytics', on images and labels that are made here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordcbam.hosts.ultralytics import YOLO, resolve, scoring
from coordcbam.preflight import preflight

SIDE, IMAGES = 64, 4
SQUARE = "0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"
LABELS = {
    "detect": "0 0.5 0.5 0.5 0.5",
    "segment": f"0 {SQUARE}",
    "pose": "0 0.5 0.5 0.5 0.5 " + "0.5 0.5 2 " * 17,
    "obb": f"0 {SQUARE}",
}
SCORES = {"detect": "(B)", "segment": "(M)", "pose": "(P)", "obb": "(B)"}
FILES = {"detect": "", "segment": "-seg", "pose": "-pose", "obb": "-obb", "classify": "-cls"}


def paint(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (SIDE, SIDE, 3), np.uint8)
    pixels[16:48, 16:48] += 150
    Image.fromarray(pixels).save(file)


def data_of(task: str, folder: Path) -> Path:
    """Four images, each with a square; of a classifier's, two classes."""
    for index in range(IMAGES):
        if task == "classify":
            for split in ("train", "val"):
                paint(folder / split / "ab"[index % 2] / f"{index}.png", index)
            continue
        paint(folder / "images" / f"{index}.png", index)
        label = folder / "labels" / f"{index}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text(LABELS[task] + "\n")
    if task == "classify":
        return folder
    file = folder / "data.yaml"
    points = "kpt_shape: [17, 3]\n" if task == "pose" else ""
    file.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {{0: square}}\n{points}")
    return file


@pytest.mark.parametrize("task", FILES)
def test_a_preflight_of_each_task(task: str, tmp_path: Path) -> None:
    model = YOLO(f"yolo11n{FILES[task]}.yaml")
    score = scoring(model, data_of(task, tmp_path / "data"), imgsz=SIDE, images=IMAGES)
    at = "4" if task == "classify" else "P3"
    found = preflight(
        model.model,
        [score.batches[0]],
        at=[f"model.{index}" for index in resolve(model.model, at)],
        blocks=["none", "step2", "step3"],
        score=score,
        seeds=1,
    )
    wanted = "fitness" if task == "classify" else f"metrics/mAP50-95{SCORES[task]}"
    assert (score.name, score.images) == (wanted, IMAGES)
    none, step2, step3 = found.rows
    for row in (none, step3):
        assert (row.drift.high, row.shock.mean) == (0.0, 0.0)  # type: ignore[union-attr]
    assert step2.drift.mean > 0.0
    assert step2.places[0].std_ratio.mean < 0.9
    assert all(row.score is not None and 0.0 <= row.score.mean <= 1.0 for row in found.rows)
    assert step2.flops > 0
    assert not list(tmp_path.rglob("*.cache"))
