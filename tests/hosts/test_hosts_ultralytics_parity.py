"""The trained network computes the same wherever it is taken, and something else without blocks.

Every comparison has a control: the same network with its blocks bypassed must be at least a hundred
times further away than the tolerance.
"""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coordcbam as cc
from coordcbam.hosts.ultralytics import YOLO

BOX, SCORE = 2e-3, 2e-5  # pixels of 128; probability


def outputs(network: Any, batch: torch.Tensor) -> torch.Tensor:
    """(B, 4 + classes, anchors): boxes in pixels, then scores."""
    with torch.no_grad():
        out = network.float().eval()(batch)
    found: torch.Tensor = out[0] if isinstance(out, (list, tuple)) else out
    return found


def distance(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Largest difference of boxes and of scores."""
    apart = (a - b).abs()
    return apart[:, :4].max().item(), apart[:, 4:].max().item()


@pytest.fixture
def reference(best: Any, batch: torch.Tensor) -> torch.Tensor:
    """Outputs of the trained network; also proves that the blocks matter to them."""
    full = outputs(best.model, batch)
    with cc.bypass(best.model):
        bare = outputs(best.model, batch)
    box, score = distance(full, bare)
    assert box >= 100 * BOX
    assert score >= 100 * SCORE
    assert full[:, 4:].max() > 0.005, "the training has not made any score count"
    return full


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    box, score = distance(a, b)
    assert box <= BOX
    assert score <= SCORE


def test_deepcopy(best: Any, batch: torch.Tensor, reference: torch.Tensor, calls: Any) -> None:
    assert_same(outputs(copy.deepcopy(best.model), batch), reference)
    assert_same(outputs(copy.deepcopy(best).model, batch), reference)
    assert calls.eval == 6


def test_fuse(best: Any, batch: torch.Tensor, reference: torch.Tensor, calls: Any) -> None:
    best.fuse()
    calls.eval = 0
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in best.model.model[16].modules())
    assert_same(outputs(best.model, batch), reference)
    assert calls.eval == 3


def test_fuse_where_the_block_sits_on_a_convolution(best: Any, batch: torch.Tensor) -> None:
    """Fusing replaces a Conv's own forward: the route that loses subclass-based blocks."""
    best.insert([1, 3], cc.BlockConfig.from_notebook(alpha_init=0.9, beta_ca=0.9))
    network = best.model
    before = outputs(network, batch)
    with cc.bypass(network):
        bare = outputs(network, batch)
    fused = copy.deepcopy(network)
    fused.fuse()
    assert_same(outputs(fused, batch), before)
    assert distance(before, bare)[0] >= 100 * BOX


def test_saved_and_loaded_in_a_process_that_never_heard_of_us(
    best: Any,
    batch: torch.Tensor,
    reference: torch.Tensor,
    tmp_path: Path,
    fresh_process: Callable[..., str],
) -> None:
    best.save(tmp_path / "saved.pt")
    np.save(tmp_path / "batch.npy", batch.numpy())
    said = fresh_process(
        """
        import sys, numpy, torch
        from ultralytics import YOLO
        assert not any(name.startswith("coordcbam") for name in sys.modules)
        model = YOLO("saved.pt")
        count = sum(type(m).__name__ == "CoordCBAM" for m in model.model.modules())
        with torch.no_grad():
            out = model.model.float().eval()(torch.from_numpy(numpy.load("batch.npy")))[0]
        numpy.save("out.npy", out.numpy())
        print("blocks", count, type(model).__module__)
        """
    )
    assert "blocks 3 ultralytics" in said
    # best.pt holds half precision already, so saving again rounds nothing.
    assert_same(torch.from_numpy(np.load(tmp_path / "out.npy")), reference)


def test_half_precision(best: Any, batch: torch.Tensor, reference: torch.Tensor) -> None:
    """Half precision is its own tolerance; the bypassed network is still far outside it."""
    network = best.model.float().eval()
    with cc.bypass(network):
        bare = outputs(network, batch)
    network.half()
    with torch.no_grad():
        half = network(batch.half())[0].float()
    assert half.isfinite().all()
    box, score = distance(half, reference)
    far_box, far_score = distance(bare, reference)
    assert far_box >= 10 * box
    assert far_score >= 10 * score
    assert all(block.r_ema.dtype == torch.float32 for _, block in cc.blocks(network))


def predicted(model: Any, picture: Path) -> np.ndarray:
    """Boxes and confidences, best first."""
    result = model.predict(picture, imgsz=128, conf=1e-3, device="cpu", verbose=False, max_det=20)
    found: np.ndarray = result[0].boxes.data.cpu().numpy()
    return found


def test_predict_runs_the_blocks_also_after_fuse(
    best: Any, pictures: list[Path], calls: Any
) -> None:
    before = predicted(best, pictures[0])
    assert len(before)
    assert calls.eval >= 3
    calls.eval = 0
    best.fuse()
    best.predictor = None
    calls.eval = 0
    after = predicted(best, pictures[0])
    assert calls.eval >= 3
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=5 * BOX)


def test_bypass_reaches_a_cached_predictor_and_lets_go_of_it(
    best: Any, pictures: list[Path]
) -> None:
    before = predicted(best, pictures[0])
    assert best.predictor is not None
    with cc.bypass(best):
        bare = predicted(best, pictures[0])
    assert bare.shape != before.shape or np.abs(bare - before).max() >= 100 * BOX
    np.testing.assert_array_equal(predicted(best, pictures[0]), before)


def test_a_predictor_made_inside_bypass_is_not_bypassed_for_ever(
    best: Any, pictures: list[Path]
) -> None:
    before = predicted(YOLO(best.ckpt_path), pictures[0])
    with cc.bypass(best):
        predicted(best, pictures[0])
    np.testing.assert_array_equal(predicted(best, pictures[0]), before)


def test_bypass_restores_after_an_error(best: Any) -> None:
    with pytest.raises(KeyError), cc.bypass(best):
        raise KeyError
    assert not any(block.bypassed for _, block in cc.blocks(best))


def test_val_gives_the_same_numbers_from_memory_file_copy_and_fused(
    best: Any, trained: Path, trained_data: Path, tmp_path: Path, calls: Any
) -> None:
    arguments: dict[str, Any] = {
        "data": str(trained_data),
        "imgsz": 128,
        "batch": 8,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "single_cls": True,
        "project": str(tmp_path),
    }

    def scores(model: Any) -> tuple[float, float]:
        calls.eval = 0
        result = model.val(**arguments)
        return float(result.box.map50), calls.eval

    score, counted = scores(best)
    assert score > 0.02
    assert counted >= 3
    fused = YOLO(trained / "weights" / "best.pt")
    fused.fuse()
    for model in (YOLO(trained / "weights" / "best.pt"), copy.deepcopy(best), fused):
        other, counted = scores(model)
        assert other == pytest.approx(score, abs=2e-3)
        assert counted >= 3
    with cc.bypass(best):
        bare, counted = scores(best)
    assert counted == 0
    # How far is up to what so short a training has learned; the outputs' distance is tested above.
    assert bare != pytest.approx(score, abs=2e-3)


def test_a_checkpoint_is_readable_after_its_folder_moved(
    trained: Path, tmp_path: Path, batch: torch.Tensor, reference: torch.Tensor
) -> None:
    moved = shutil.copy(trained / "weights" / "last.pt", tmp_path / "elsewhere.pt")
    model = YOLO(moved)
    assert len(cc.blocks(model.model)) == 3
    assert distance(outputs(model.model, batch), reference)[0] < 128
