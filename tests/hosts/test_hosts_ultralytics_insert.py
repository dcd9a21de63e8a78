"""Inserting into an Ultralytics model: where, how wide, what is kept, and what a mistake costs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import coordcbam as cc
from _support.yolo_batch import model_of
from coordcbam._support.errors import UsageError
from coordcbam.hosts.ultralytics import YOLO, resolve

CONFIG = cc.BlockConfig.from_notebook(beta_ca=0.5)


@pytest.fixture(scope="module")
def bare() -> Any:
    """A network for tests that must not change it."""
    return YOLO("yolo11n.yaml")


def paths(model: Any) -> list[str]:
    return [path for path, _ in cc.blocks(model.model)]


def fingerprint(model: Any) -> tuple[Any, ...]:
    """Everything an insertion could leave behind."""
    net = model.model
    return (
        {key: tensor.clone() for key, tensor in net.state_dict().items()}.keys(),
        copy.deepcopy(net.yaml),
        [len(module._forward_hooks) for module in net.modules()],
        [module.training for module in net.modules()],
        [name for name, _ in net.named_modules()],
    )


def test_it_returns_and_prints_rows_and_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("coordcbam.hosts.yolo.inserting.LOGGER.info", said.append)
    model = YOLO("yolo11n.yaml")
    tensors = len(model.model.state_dict())
    parameters = sum(p.numel() for p in model.model.parameters())

    done = model.insert("P3,P4,P5")

    added = sum(p.numel() for p in model.model.parameters()) - parameters
    assert [(r.layer, r.path, r.channels) for r in done.plan.rows] == [
        ("C3k2", "model.16", 64),
        ("C3k2", "model.19", 128),
        ("C3k2", "model.22", 256),
    ]
    assert done.plan.parameters == added == sum(r.parameters for r in done.plan.rows)
    assert done.kept == done.total == tensors
    printed = [line for text in said for line in text.splitlines()]
    assert printed[0].split() == ["layer", "path", "channels", "parameters", "added"]
    assert printed[1].split()[:3] == ["C3k2", "model.16", "64"]
    assert printed[-1] == f"{tensors}/{tensors} tensors kept"


def test_pretrained_keys_and_values_stay() -> None:
    model = YOLO("yolo11n.yaml")
    before = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    model.insert("P3,P4,P5")
    after = model.model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert {key.split(".ccattn.")[0] for key in after.keys() - before.keys()} == {
        "model.16",
        "model.19",
        "model.22",
    }


@pytest.mark.parametrize(
    ("at", "indices"),
    [
        ("P3,P4,P5", [16, 19, 22]),
        ("p3 P5", [16, 22]),
        ("P3,P3", [16]),
        ("neck", [16, 19, 22]),
        ("backbone", [4, 6, 10]),
        ("2", [2]),
        (13, [13]),
        ([4, "P4"], [4, 19]),
        ("P5,backbone,1", [1, 4, 6, 10, 22]),
        (("neck", 16), [16, 19, 22]),
    ],
)
def test_words_for_places(bare: Any, at: Any, indices: list[int]) -> None:
    assert resolve(bare.model, at) == indices


@pytest.mark.parametrize(
    ("at", "named"),
    [
        ("P6", "'P5'"),
        ("P2", "'P3'"),
        ("nek", "'neck'"),
        ("backbon", "'backbone'"),
        ("23", "layer index from 0 to 22"),  # the head itself
        ("99", "layer index from 0 to 22"),
        (-1, "layer index from 0 to 22"),
        ("P3,,P9", "'P3'"),
        ("", "'P3'"),
        ([], "'P3'"),
        (3.5, "layer index"),
        (True, "layer index"),
        ([True], "layer index"),
        (None, "layer index"),
    ],
)
def test_a_wrong_place_is_one_line_and_changes_nothing(bare: Any, at: Any, named: str) -> None:
    model = bare
    before = fingerprint(model)
    with pytest.raises(UsageError) as caught:
        model.insert(at)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fingerprint(model) == before
    assert not model.ckpt


def test_a_place_without_a_map_is_refused_and_changes_nothing() -> None:
    model = YOLO("yolo11n-cls.yaml")
    before = fingerprint(model)
    with pytest.raises(UsageError, match="index from 0"):
        model.insert([4, 10])  # 10 is the head
    assert fingerprint(model) == before


def test_a_second_block_at_one_place_is_refused_and_changes_nothing() -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    before = fingerprint(model)
    with pytest.raises(UsageError, match=r"model\.16.*already"):
        model.insert("neck")
    assert fingerprint(model) == before


def test_a_config_too_narrow_for_one_layer_changes_nothing() -> None:
    model = YOLO("yolo11n.yaml")
    before = fingerprint(model)
    config = cc.BlockConfig.from_notebook(ca_reduction=128, ca_min_hidden=0)  # 64 // 128 is 0
    with pytest.raises(UsageError, match="hidden"):
        model.insert("P5,P3", config)
    assert fingerprint(model) == before


def test_an_exported_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    model = YOLO(tmp_path / "model.onnx", task="detect")
    with pytest.raises(TypeError, match="PyTorch"):
        model.insert()


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("yolov8n.yaml", [64, 128, 256]),
        ("yolov8s.yaml", [128, 256, 512]),
        ("yolo11n.yaml", [64, 128, 256]),
        ("yolo11s.yaml", [128, 256, 512]),
        ("yolo12n.yaml", [64, 128, 256]),
        ("yolo26n.yaml", [64, 128, 256]),
        ("yolo26s.yaml", [128, 256, 512]),
        ("yolo11n-seg.yaml", [64, 128, 256]),
    ],
)
def test_channels_follow_version_scale_and_task(name: str, channels: list[int], calls: Any) -> None:
    model = model_of(name)
    done = model.insert("P3,P4,P5")
    assert [row.channels for row in done.plan.rows] == channels
    assert done.kept == done.total
    with torch.no_grad():
        model.model.eval()(torch.rand(1, 3, 64, 64))
    assert calls.eval == 3


def test_other_pyramids_have_their_own_levels() -> None:
    p2 = YOLO("yolov8n-p2.yaml").insert("P2,P5")
    p6 = YOLO("yolov8n-p6.yaml").insert("P6")
    assert [row.channels for row in p2.plan.rows] == [32, 256]
    assert [row.path for row in p6.plan.rows] == ["model.29"]


def test_a_classifier(calls: Any) -> None:
    model = YOLO("yolo11n-cls.yaml")
    done = model.insert("backbone,4")
    assert next(row.path for row in done.plan.rows) == "model.4"
    with torch.no_grad():
        model.model.eval()(torch.rand(1, 3, 64, 64))
    assert calls.eval == len(done.plan.rows)


def test_inserting_leaves_training_modes_alone() -> None:
    """A user who froze a batch norm in eval mode finds it so afterwards."""
    model = YOLO("yolo11n.yaml")
    model.model.train()
    frozen = model.model.model[0].bn
    frozen.eval()
    model.insert("P4")
    assert not frozen.training
    assert model.model.model[1].bn.training


def test_removing_restores_outputs_keys_and_recipe(best: Any, batch: torch.Tensor) -> None:
    net = best.model.float().eval()
    with torch.no_grad():
        attended = net(batch)[0]
        with cc.bypass(net):
            bare = net(batch)[0]
        assert best.remove() == 3
        removed = net(batch)[0]
    assert torch.equal(removed, bare)
    assert not torch.allclose(removed, attended)
    assert paths(best) == []
    assert "coordcbam" not in net.yaml
    assert not any("ccattn" in key for key in net.state_dict())
    assert best.remove() == 0
    best.insert("P3")  # and the place is free again
    assert paths(best) == ["model.16.ccattn"]


def test_fresh_blocks_are_monitored_unless_asked_otherwise() -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    model.insert("P4", monitor=False)
    assert [block.monitor for _, block in cc.blocks(model.model)] == [True, False]


def test_a_predictor_has_the_blocks_that_the_network_has(best: Any, pictures: list[Path]) -> None:
    """Also where as many blocks are put elsewhere, behind the model's back."""
    best.remove()
    best.insert("P3")
    best.predict(pictures[0], imgsz=128, verbose=False)
    cc.remove_(best.model)
    cc.insert_(best.model, "model.19", inputs=torch.zeros(1, 3, 128, 128))
    best.predict(pictures[0], imgsz=128, verbose=False)
    inner = best.predictor.model
    found = [path for path, _ in cc.blocks(getattr(inner, "backend", inner).model)]
    assert found == ["model.19.ccattn"]
