"""A YOLO's score on few images: the host's own number, the same network afterwards, no trace."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.data import DigitsConfig, digits
from coordcbam.hosts.ultralytics import YOLO, scoring
from coordcbam.hosts.yolo.scoring import predictions
from coordcbam.preflight.trial import tensors_of


@pytest.fixture
def scored(best: Any, trained_data: Path) -> Any:
    return scoring(best, trained_data, images=16)


def test_it_is_what_the_host_says(
    scored: Any, best: Any, trained_data: Path, tmp_path: Path
) -> None:
    found = best.val(
        data=str(trained_data),
        device="cpu",
        workers=0,
        plots=False,
        rect=False,  # else the host pads by half a stride
        verbose=False,
        project=str(tmp_path),
    )
    assert scored.name == "metrics/mAP50-95(B)"
    assert scored.images == 16
    assert scored(YOLO(best.ckpt_path).model) == pytest.approx(found.box.map, abs=1e-6)
    assert found.box.map > 0.05


def test_batches_are_as_the_network_gets_them(scored: Any, best: Any) -> None:
    assert [tuple(batch.shape) for batch in scored.batches] == [(16, 3, 128, 128)]
    assert 0.5 < float(scored.batches[0].max()) <= 1.0
    assert scored.device == next(best.model.parameters()).device


def test_few_images_are_spread_over_the_split(best: Any, trained_data: Path, scored: Any) -> None:
    few = scoring(best, trained_data, images=4)
    assert few.images == 4
    assert torch.equal(few.batches[0], scored.batches[0][[0, 4, 8, 12]])
    assert scoring(best, trained_data, images=99).images == 16
    parts = scoring(best, trained_data, images=16, batch=4)
    assert torch.equal(parts.some(4), scored.batches[0][[0, 4, 8, 12]])
    assert torch.equal(parts.some(99), scored.batches[0])


def test_the_necks_maps_are_no_predictions(best: Any, scored: Any) -> None:
    network = best.model.eval()
    seen: list[torch.Tensor] = []
    handles = [
        network.model[i].register_forward_hook(lambda _m, _a, out: seen.append(out))
        for i in (16, 19, 22)
    ]
    with torch.no_grad():
        found = tensors_of(predictions(network(scored.some(2))))
    for handle in handles:
        handle.remove()
    assert len(seen) == 3
    assert found
    assert all(out.shape != map_.shape for out in found for map_ in seen)


def test_a_bypassed_network_scores_otherwise(scored: Any, best: Any) -> None:
    before = scored(best.model)
    with cc.bypass(best.model):
        bypassed = scored(best.model)
    assert bypassed != before
    assert scored(best.model) == before


def test_the_network_and_the_process_are_as_before(
    best: Any,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # Of its own: other workers' trainings leave caches beside the shared images.
    data = digits(DigitsConfig(train=8, val=8), root=tmp_path_factory.mktemp("data"))
    files = sorted(data.parent.rglob("*"))
    best.model.train()
    before = {key: value.clone() for key, value in best.model.state_dict().items()}
    dice, logger = torch.get_rng_state(), logging.getLogger("ultralytics")
    state = logger.level, torch.get_num_threads()
    scoring(best, data, images=8)(best.model)
    after = best.model.state_dict()
    assert list(after) == list(before)  # not fused
    assert "info" not in vars(best.model)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert best.model.training
    assert torch.equal(torch.get_rng_state(), dice)
    assert (logger.level, torch.get_num_threads()) == state
    assert sorted(data.parent.rglob("*")) == files
    assert list(tmp_path.iterdir()) == []
    assert "".join(capfd.readouterr()) == ""


def test_a_batch_is_of_so_many_pixels_unless_it_is_given(
    best: Any, trained_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordcbam.hosts.yolo.scoring.PIXELS", 5 * 128 * 128 + 1)
    sizes = [len(batch) for batch in scoring(best, trained_data, images=12).batches]
    assert sizes == [5, 5, 2]
    given = scoring(best, trained_data, images=12, batch=8)
    assert [len(batch) for batch in given.batches] == [8, 4]
    monkeypatch.setattr("coordcbam.hosts.yolo.scoring.PIXELS", 1)
    assert len(scoring(best, trained_data, images=2).batches) == 2


@pytest.mark.parametrize("images", [0, True, 2.0])
def test_images_are_counted(best: Any, trained_data: Path, images: Any) -> None:
    with pytest.raises(UsageError, match="images="):
        scoring(best, trained_data, images=images)


def test_data_that_is_not_there_is_one_line(best: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be validated") as raised:
        scoring(best, tmp_path / "none.yaml")
    assert "\n" not in str(raised.value)
