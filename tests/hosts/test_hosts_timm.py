"""timm models with blocks: as the attention layer that timm builds in, and behind its stages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from _support.shaken import shaken

pytest.importorskip("timm")

import timm

import coordcbam as cc
from coordcbam.hosts.timm import attention, start_afresh_
from coordcbam.records import read_run

STEPS = 3
BUILT_IN = [f"layer{stage}.{unit}.se" for stage in (1, 2, 3, 4) for unit in (0, 1)]


def with_attention(name: str = "resnet18", **options: Any) -> Any:
    return timm.create_model(
        name, pretrained=False, block_args={"attn_layer": cc.CoordCBAM}, **options
    )


def images(size: int = 64) -> torch.Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def train(model: Any, folder: Path) -> None:
    """Three steps of a plain loop, of logits or of feature maps."""
    model.train()
    optimizer = torch.optim.AdamW(cc.parameter_groups(model, 0.05), lr=1e-3)
    with cc.Monitor(model, folder, every=1) as monitor:
        for _ in range(STEPS):
            out = model(images())
            out = out if isinstance(out, torch.Tensor) else out[-1].mean(dim=(2, 3))
            loss = F.cross_entropy(out, torch.arange(4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(epoch=0)
            assert loss.isfinite()


def check_trained(model: Any, folder: Path, paths: list[str], calls: Any, skipped: int = 0) -> None:
    assert calls.train == STEPS * len(paths)
    assert [(int(block.updates), int(block.skipped)) for _, block in cc.blocks(model)] == [
        (STEPS - skipped, skipped)
    ] * len(paths)
    run = read_run(folder)
    assert (run.info.status, run.problems) == ("finished", ())
    assert [place.path for place in run.info.places] == paths
    assert all(run.series(path, "rho")[0] == list(range(STEPS)) for path in paths)


@torch.no_grad()
def outputs(model: Any) -> list[torch.Tensor]:
    out = model.eval()(images())
    return [out] if isinstance(out, torch.Tensor) else list(out)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_as_attn_layer_it_trains_and_its_state_goes_into_a_fresh_model(
    tmp_path: Path, calls: Any
) -> None:
    model = with_attention(num_classes=4)
    assert [path for path, _ in cc.blocks(model)] == BUILT_IN
    train(model, tmp_path)
    # timm starts a branch at zero, so there is no signal at the first step.
    check_trained(model, tmp_path, BUILT_IN, calls, skipped=1)
    with_blocks = outputs(model)
    assert calls.eval == len(BUILT_IN)
    with cc.bypass(model):
        assert not same(outputs(model), with_blocks)
    torch.manual_seed(5)
    other = with_attention(num_classes=4)
    assert not same(outputs(other), with_blocks)
    other.load_state_dict(model.state_dict())
    assert same(outputs(other), with_blocks)


def test_timm_draws_the_convolutions_of_a_built_in_block_anew() -> None:
    model = with_attention(num_classes=4, zero_init_last=False)
    built = outputs(model)
    with cc.bypass(model):
        plain = outputs(model)
    assert not same(built, plain)  # no identity
    start_afresh_(model)
    assert same(outputs(model), plain)  # bit for bit
    assert not same(built, plain)


def test_as_attn_layer_in_a_model_of_features(tmp_path: Path, calls: Any) -> None:
    model = with_attention(features_only=True, zero_init_last=False)
    maps = outputs(model)
    assert [tuple(m.shape[1:]) for m in maps] == [
        *((64, 32, 32), (64, 16, 16)),
        *((128, 8, 8), (256, 4, 4), (512, 2, 2)),
    ]
    assert calls.eval == len(BUILT_IN)
    train(model, tmp_path)
    check_trained(model, tmp_path, BUILT_IN, calls)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet50", {"block_args": {"attn_layer": cc.CoordCBAM}}, 16),
        ("seresnet18", {"block_args": {"attn_layer": attention}}, 8),
        ("nf_seresnet26", {"attn_layer": attention}, 8),
        ("gernet_s", {"attn_layer": cc.CoordCBAM}, 14),
        ("ese_vovnet19b_dw", {"attn": attention}, 4),
        ("efficientnet_b0", {"se_layer": attention}, 16),
    ],
)
@torch.no_grad()
def test_families_that_take_an_attention_layer(
    name: str, options: dict[str, Any], count: int, calls: Any
) -> None:
    model = timm.create_model(name, pretrained=False, num_classes=4, **options).eval()
    assert model(images()).shape == (4, 4)
    assert (len(cc.blocks(model)), calls.eval) == (count, count)
    assert start_afresh_(model) == count
    out = model(images())
    with cc.bypass(model):
        assert torch.equal(model(images()), out)


def test_a_resnet_of_timms_starts_as_the_identity() -> None:
    model = with_attention(num_classes=4).eval()
    out = model(images())
    with cc.bypass(model):
        assert torch.equal(model(images()), out)


def test_an_options_start_that_is_not_the_identity_is_kept() -> None:
    block = cc.CoordCBAM(8, cc.BlockConfig.step2())
    before = block.ca.fc2.weight.clone()
    block.zero_init_last()
    assert torch.equal(block.ca.fc2.weight, before)


def test_timm_calls_an_attention_layer_with_arguments_of_its_own() -> None:
    seen: set[str] = set()

    def noted(channels: int, **options: Any) -> cc.CoordCBAM:
        seen.update(options)
        return attention(channels, **options)

    timm.create_model("nf_seresnet26", pretrained=False, attn_layer=noted)
    assert {"device", "dtype", "rd_ratio"} <= seen


PLACES: dict[str, Any] = {
    "glob": "layer[234]",
    "predicate": lambda path, _: path in ("layer2", "layer3", "layer4"),
}


@pytest.mark.parametrize("at", PLACES.values(), ids=PLACES)
def test_behind_the_stages_of_a_backbone(at: Any, tmp_path: Path, calls: Any) -> None:
    paths = ["layer2.1", "layer3.1", "layer4.1"]  # what a stage ends with
    model = timm.create_model("resnet18", pretrained=False, features_only=True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = outputs(model)
    done = cc.insert_(model, at, inputs=images())
    assert [row.path for row in done.plan.rows] == paths
    assert (done.kept, done.total) == (len(state), len(state))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert same(outputs(model), before)  # a fresh block is the identity
    calls.train = calls.eval = 0
    train(model, tmp_path)
    check_trained(model, tmp_path, paths, calls)

    for _, block in cc.blocks(model):
        shaken(block)
    with_blocks = outputs(model)
    assert calls.eval == len(paths)
    with cc.bypass(model):
        unchanged = [torch.equal(a, b) for a, b in zip(outputs(model), with_blocks, strict=True)]
    assert unchanged == [True, True, False, False, False]  # every map from layer2 on

    torch.manual_seed(5)
    other = timm.create_model("resnet18", pretrained=False, features_only=True)
    cc.insert_(other, json.loads(json.dumps(done.spec)))
    other.load_state_dict(model.state_dict())
    assert same(outputs(other), with_blocks)
