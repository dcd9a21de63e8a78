"""``freeze`` with blocks: the layers stay as they are, whatever they are made of; blocks learn."""

from pathlib import Path
from typing import Any

import pytest
import torch

import coordcbam as cc
from coordcbam.hosts.ultralytics import YOLO
from coordcbam.hosts.yolo.freezing import spared


def test_freeze_spares_new_blocks_unless_they_are_named(
    tmp_path: Path, settings: dict[str, Any], stopping_at: Any
) -> None:
    seen: dict[str, bool] = {}

    def look(trainer: Any) -> None:
        seen.update({k: p.requires_grad for k, p in trainer.model.named_parameters()})
        seen["freeze"] = trainer.args.freeze

    for freeze, learns in ((5, True), ([4, 16, "16.ccattn"], False)):
        model = YOLO("yolo11n.yaml")
        model.insert("4,16")
        model.add_callback("on_train_start", look)
        with stopping_at(model, "on_train_start", 1):
            model.train(**{**settings, "name": f"run{learns}"}, freeze=freeze)
        assert seen["model.4.ccattn.ca.fc1.weight"]
        assert seen["model.16.ccattn.ca.fc1.weight"] == learns
        assert not seen["model.4.cv1.conv.weight"]
        assert seen["freeze"] == freeze


@pytest.mark.parametrize("at", ["3,4", "9"])
def test_a_frozen_layer_with_a_block_does_not_change_at_all(
    at: str, settings: dict[str, Any]
) -> None:
    """Also the running statistics of a convolution's own normalisation."""
    model = YOLO("yolo11n.yaml")
    model.insert(at)
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    seen: dict[str, torch.Tensor] = {}
    model.add_callback("on_train_epoch_end", lambda t: seen.update(t.model.state_dict()))
    model.train(**settings, freeze=10)
    layers = {f"model.{index}" for index in range(10)}
    changed = {
        key
        for key, value in before.items()
        if ".".join(key.split(".")[:2]) in layers and not torch.equal(seen[key], value)
    }
    assert changed
    assert {key for key in changed if ".ccattn." not in key} == set()


def test_a_layers_own_parameters_are_frozen_too(settings: dict[str, Any], stopping_at: Any) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("4")
    model.model.model[4].register_parameter("gamma", torch.nn.Parameter(torch.ones(3)))
    learns: dict[str, bool] = {}
    model.add_callback(
        "on_train_start",
        lambda t: learns.update({k: p.requires_grad for k, p in t.model.named_parameters()}),
    )
    # train() rebuilds the network, so the parameter is given to that one as well.
    model.add_callback(
        "on_pretrain_routine_start",
        lambda t: setattr(t, "get_model", given(t.get_model)),
    )

    def given(build: Any) -> Any:
        def get_model(*args: Any, **kwargs: Any) -> Any:
            network = build(*args, **kwargs)
            network.model[4].register_parameter("gamma", torch.nn.Parameter(torch.ones(3)))
            return network

        return get_model

    with stopping_at(model, "on_train_start", 1):
        model.train(**settings, freeze=5)
    assert learns["model.4.gamma"] is False
    assert learns["model.4.ccattn.ca.fc1.weight"] is True


def test_a_block_deep_in_a_layer_is_spared() -> None:
    network = torch.nn.Module()
    layer = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1))
    network.model = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 1), layer])
    cc.insert_(layer, "1", inputs=torch.zeros(1, 4, 8, 8))
    assert spared(network, 2) == [0, "1.0"]
    assert spared(network, ["1", "0", "1.1.ccattn"]) == ["1.0", "0", "1.1.ccattn"]
    assert spared(network, None) is None
    assert spared(network, [5, "backbone"]) == [5, "backbone"]
