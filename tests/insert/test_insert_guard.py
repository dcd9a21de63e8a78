"""``guard_``: any shape-preserving block in a model, guarded where it is, and let go again."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam.block import InputError
from coordcbam.insert import rebuild
from coordcbam.insert.plan import PlaceError

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Halve(nn.Module):
    """A plain function: no parameters, no buffers."""

    def forward(self, x):
        return 0.5 * x


def model_of():
    layers = [
        ("stem", nn.Conv2d(3, 8, 3)),
        ("a", Halve()),
        ("b", nn.Conv2d(8, 8, 1)),
        ("c", Halve()),
    ]
    model = nn.Sequential()
    for name, layer in layers:
        model.add_module(name, layer)
    nn.init.dirac_(model.b.weight)
    nn.init.zeros_(model.b.bias)
    return model.eval()


def test_no_key_and_no_object_changes():
    model = model_of()
    keys, objects = list(model.state_dict()), list(model.modules())
    done = cc.guard_(model, ["a", "c"])
    assert [key for key in model.state_dict() if ".ccattn." not in key] == keys
    assert [m for m in model.modules() if not isinstance(m, cc.Guard)] == objects
    assert [path for path, _ in cc.blocks(model)] == ["a.ccattn", "c.ccattn"]
    assert [row.path for row in done.rows] == ["a", "c"]
    assert torch.equal(model(X), model_of_like(model)(X))
    assert cc.remove_(model) == 2
    assert list(model.state_dict()) == keys
    assert list(model.modules()) == objects
    assert not any(m._forward_hooks for m in model.modules())


def model_of_like(model):
    twin = model_of()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if ".ccattn." not in k})
    return twin


def test_training_and_eval_keep_r_min():
    model = model_of()
    cc.guard_(model, ["a", "c"], r_min=0.8)
    model.train()
    for _ in range(3):
        model(X)
        cc.commit_(model)
    guards = dict(cc.blocks(model))
    assert guards["a.ccattn"].r_ema.item() == pytest.approx(0.5, abs=1e-6)
    assert guards["a.ccattn"].alpha_eff().item() == pytest.approx(0.4, abs=1e-6)
    stem = model.stem(X)
    torch.testing.assert_close(model.eval().a(stem), 0.8 * stem)


def test_calibration_holds_from_the_start_each_guard_behind_the_last():
    model = model_of()
    before = copy.deepcopy(model.state_dict())
    model.b.train()
    done = cc.guard_(model, "[ac]", calibrate=X)
    assert [row.keeps for row in done.rows] == pytest.approx([0.5, 0.5])
    assert [row.alpha_eff for row in done.rows] == pytest.approx([0.2, 0.2])
    assert model.b.training
    assert not model.a.training
    stem = model.stem(X)
    torch.testing.assert_close(model(X), 0.81 * model.b(stem), rtol=1e-4, atol=1e-3)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert "0.500" in str(done)
    assert "0.200" in str(done)


def test_each_guard_is_calibrated_on_what_the_ones_before_it_let_through():
    class Squash(nn.Module):
        def forward(self, x):
            return x.clamp(-1.0, 1.0)  # keeps the less, the louder its input is

    model = nn.Sequential(Halve(), Squash()).eval()
    x = 2.0 * torch.ones(1, 1, 2, 2)
    done = cc.guard_(model, ["0", "1"], calibrate=x)
    assert done.rows[1].keeps == pytest.approx(1.0 / 1.8)  # not of 1.0, which Halve alone makes


def test_a_tuple_is_several_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Halve()

        def forward(self, x, scale):
            return self.block(x) * scale

    model = Two()
    done = cc.guard_(model, "block", calibrate=(X, 2.0))
    assert done.rows[0].keeps == pytest.approx(0.5)


def test_a_failed_calibration_leaves_the_model_as_it_was():
    model = nn.Sequential(Halve(), nn.MaxPool2d(2))
    with pytest.raises(InputError, match="Guard: the block made"):
        cc.guard_(model, ["0", "1"], calibrate=X)
    assert cc.blocks(model) == []
    assert model(X).shape == (4, 3, 6, 6)


def test_bypass_is_the_block_without_its_guard():
    model = model_of()
    bare = model(X)
    cc.guard_(model, ["a", "c"], calibrate=X)
    assert not torch.allclose(model(X), bare)
    with cc.bypass(model):
        assert torch.equal(model(X), bare)


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("nowhere", "no layer 'nowhere'"),
        ("seq", "seq is a Sequential, which would run the guard"),
        ("guarded", "guarded has a block already"),
        ([], "names no place"),
    ],
)
def test_places_that_cannot_be_guarded(at, words):
    model = nn.ModuleDict({"seq": nn.Sequential(Halve()), "guarded": Halve()})
    cc.guard_(model, "guarded")
    with pytest.raises(PlaceError, match=words):
        cc.guard_(model, at)
    assert len(cc.blocks(model)) == 1


def test_a_call_by_keyword_is_refused():
    model = nn.ModuleDict({"a": Halve()})
    cc.guard_(model, "a")
    with pytest.raises(InputError, match="called by keyword"):
        model["a"](x=X)


def test_the_spec_rebuilds_the_guards_and_their_state_fits():
    model = model_of()
    done = cc.guard_(model, ["a", "c"], r_min=0.7, momentum=0.5, calibrate=X)
    spec = json.loads(json.dumps(done.spec))
    for build in (lambda m: cc.guard_(m, spec), lambda m: rebuild(m, spec)):
        twin = model_of()
        build(twin)
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin(X), model(X))
        (_, guard), _ = cc.blocks(twin)
        assert (guard.rescue.r_min, guard.momentum) == (0.7, 0.5)
    with pytest.raises(ValueError, match="version 99"):
        cc.guard_(model_of(), {**spec, "version": 99})


def test_a_recipe_notes_the_guards_and_forgets_them():
    model = model_of()
    model.yaml = {"backbone": []}
    cc.guard_(model, "a")
    assert model.yaml["coordcbam"][0]["places"] == [{"path": "a"}]
    assert model.yaml["coordcbam"][0]["guard"]["r_min"] == 0.9
    cc.remove_(model)
    assert "coordcbam" not in model.yaml


def test_a_guarded_model_pickles_and_copies():
    model = model_of()
    cc.guard_(model, ["a", "c"], calibrate=X)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(X), model(X))
        assert twin.a.ccattn is not model.a.ccattn


def test_guards_write_the_same_records(tmp_path):
    model = model_of().train()
    cc.guard_(model, ["a", "c"])
    with cc.Monitor(model, tmp_path, every=1) as monitor:
        for _ in range(2):
            model(X)
            readings = monitor.step()
    assert set(readings) == {"a", "c"}
    assert readings["a"]["rho"] == pytest.approx(0.5)
    assert readings["a"]["alpha_eff"] == pytest.approx(0.2, abs=1e-5)
    info = json.loads((tmp_path / "coordcbam" / "run.json").read_text())
    assert info["config"]["preset"] == "guard"
    assert info["config"]["rescue"]["r_min"] == 0.9


def test_timm_and_ultralytics_blocks():
    create_attn = pytest.importorskip("timm.layers").create_attn
    conv = pytest.importorskip("ultralytics.nn.modules.conv")
    model = nn.Sequential(create_attn("cbam", 16), conv.CBAM(16), create_attn("coord", 16)).eval()
    x = torch.randn(8, 16, 10, 10)
    bare = (model(x).norm() / x.norm()).item()
    done = cc.guard_(model, ["0", "1", "2"], calibrate=x)
    kept = (model(x).norm() / x.norm()).item()
    assert bare < 0.1
    assert kept == pytest.approx(0.9**3, abs=0.02)
    assert all(row.keeps < 0.6 for row in done.rows)


def test_calibration_runs_in_eval_mode_once_and_is_over():
    model = nn.Sequential(nn.BatchNorm2d(3), Halve()).train()
    before = copy.deepcopy(model.state_dict())
    cc.guard_(model, "1", calibrate=X)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert model.training
    ((_, guard),) = cc.blocks(model)
    with torch.no_grad():
        model.eval()(3.0 * X)
    cc.commit_(model)
    assert guard.updates == 1
