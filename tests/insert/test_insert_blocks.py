"""Attached blocks: run once, keep every tensor, follow the layer, come out without a trace."""

import copy
import pickle

import pytest
import torch
from torch import nn

import coordcbam as cc
from _support import fresh
from coordcbam.insert import ATTRIBUTE, label

X = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))


def model_of():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
    )


def shaken(model):
    """The blocks' weights far from neutral, so that parity is not trivial."""
    with torch.no_grad():
        for _, block in cc.blocks(model):
            for parameter in block.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def inserted(at=("0", "1"), **options):
    model = model_of().eval()
    cc.insert_(model, at, inputs=X, **options)
    return shaken(model)


def distance(model, x=X):
    """How far the blocks move the output: the control that says they ran."""
    with cc.bypass(model):
        without = model(x)
    return (model(x) - without).abs().max().item()


def count_runs(model):
    runs = {path: 0 for path, _ in cc.blocks(model)}
    for path, block in cc.blocks(model):
        block.register_forward_hook(lambda *_, path=path: runs.__setitem__(path, runs[path] + 1))
    return runs


def test_what_an_insertion_says():
    model = model_of()
    tensors = len(model.state_dict())
    insertion = cc.insert_(model, ["0", "1"], inputs=X)
    assert [row.path for row in insertion.plan.rows] == ["0.2", "1"]
    assert insertion.kept == insertion.total == tensors
    assert str(insertion).endswith(f"{tensors}/{tensors} tensors kept")
    assert insertion.monitor
    assert all(block.monitor for _, block in cc.blocks(model))


def test_keys_are_kept_and_blocks_add_their_own():
    model = model_of()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    objects = dict(model.named_modules())
    cc.insert_(model, "1", inputs=X)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    added = set(after) - set(before)
    assert added == {f"1.{ATTRIBUTE}.{key}" for key in cc.CoordCBAM(16).state_dict()}
    assert all(model.get_submodule(path) is module for path, module in objects.items())


@pytest.mark.parametrize("at", ["0", "0.0", "1", "2"])
def test_each_block_runs_exactly_once(at):
    model = inserted(at)
    runs = count_runs(model)
    model(X)
    assert list(runs.values()) == [1]
    assert distance(model) > 1e-3


def test_the_block_sees_the_layers_output():
    model = inserted("1")
    block = model[1].ccattn
    plain = copy.deepcopy(model)
    cc.remove_(plain)
    layer_out = plain[1](plain[0](X))
    assert torch.equal(model(X), plain[2](block(layer_out)))


def test_paths_of_blocks_and_their_labels():
    model = inserted()
    paths = [path for path, _ in cc.blocks(model)]
    assert paths == [f"0.2.{ATTRIBUTE}", f"1.{ATTRIBUTE}"]
    assert all(model.get_submodule(path) is block for path, block in cc.blocks(model))
    assert [label(path) for path in paths] == ["0.2", "1"]
    assert cc.blocks(nn.ReLU()) == []
    built_in = nn.Sequential(nn.ReLU(), cc.CBAMChannelPlusCoord(8))
    assert [path for path, _ in cc.blocks(built_in)] == ["1"]


def test_remove_restores_everything():
    model = model_of().eval()
    want, keys = model(X), list(model.state_dict())
    names = {path: set(vars(module)) for path, module in model.named_modules()}
    objects = dict(model.named_modules())
    for _ in range(2):
        cc.insert_(model, ["0", "1"], inputs=X)
        shaken(model)
        assert not torch.equal(model(X), want)
        assert cc.remove_(model) == 2
        assert torch.equal(model(X), want)
        assert list(model.state_dict()) == keys
        assert dict(model.named_modules()) == objects
        assert {path: set(vars(module)) for path, module in model.named_modules()} == names
        assert not any(module._forward_hooks for module in model.modules())
    assert cc.remove_(model) == 0


def test_remove_leaves_other_hooks():
    model, seen = model_of(), []
    model[1].register_forward_hook(lambda *_: seen.append("mine"))
    cc.insert_(model, "1", inputs=X)
    seen.clear()
    cc.remove_(model)
    model(X)
    assert seen == ["mine"]


@pytest.mark.parametrize(
    "config", [None, cc.BlockConfig.step1(), cc.BlockConfig.from_notebook(beta_ca=0.9)]
)
@pytest.mark.parametrize("monitor", [True, False])
def test_a_spec_rebuilds_the_model(config, monitor):
    torch.manual_seed(1)
    model = model_of().eval()
    insertion = cc.insert_(model, ["0", "1"], inputs=X, config=config, monitor=monitor)
    shaken(model)
    spec = pickle.loads(pickle.dumps(insertion.spec))
    fresh_model = model_of().eval()
    again = cc.insert_(fresh_model, spec)
    assert again.spec == insertion.spec
    fresh_model.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh_model(X), model(X))
    assert {block.monitor for _, block in cc.blocks(fresh_model)} == {monitor}
    assert distance(fresh_model) > 1e-3


def test_a_spec_is_plain_json():
    import json

    spec = cc.insert_(model_of(), "1", inputs=X).spec
    assert json.loads(json.dumps(spec)) == spec
    assert spec["places"] == [{"path": "1", "channels": 16}]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 99}, "insertion spec version 99"),
        ({"version": None}, "insertion spec version None"),
        ({"places": [{"path": "9", "channels": 8}]}, "no layer '9' in Sequential"),
        ({"places": [{"path": "1", "channels": "8"}]}, "channels='8'"),
        ({"config": {"channel": {"beta": "x"}}}, "ChannelConfig.beta='x'"),
    ],
)
def test_a_wrong_spec_leaves_the_model_as_it_was(change, text):
    spec = {**cc.insert_(model_of(), ["0", "1"], inputs=X).spec, **change}
    model = model_of()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=text):
        cc.insert_(model, spec)
    assert list(model.state_dict()) == keys
    assert not any(module._forward_hooks for module in model.modules())


def test_deepcopy_keeps_blocks_and_separates_them():
    model = inserted()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    runs, twins_runs = count_runs(model), count_runs(twin)
    twin(X)
    assert sum(runs.values()) == 0
    assert list(twins_runs.values()) == [1, 1]
    assert cc.remove_(twin) == 2
    assert len(cc.blocks(model)) == 2


def test_a_hooked_model_in_a_fresh_process(tmp_path, child_environment):
    """Nothing of ours is imported there before the file is opened."""
    model = inserted()
    torch.save((model, X, model(X)), tmp_path / "model.pt")
    code = """
import json, sys, torch
torch.set_num_threads(1)
model, x, want = torch.load(sys.argv[1], weights_only=False)
import coordcbam as cc
out = model(x)
with cc.bypass(model):
    off = model(x)
print(json.dumps([len(cc.blocks(model)), (out - want).abs().max().item(),
                  (out - off).abs().max().item(), cc.remove_(model), len(cc.blocks(model))]))
"""
    count, error, control, removed, left = fresh.run(code, child_environment, tmp_path / "model.pt")
    assert (count, removed, left) == (2, 2, 0)
    assert error <= 1e-6 < 1e-3 < control


def test_bypass_is_the_plain_model_and_ends():
    plain = model_of().eval()
    model = copy.deepcopy(plain)
    cc.insert_(model, ["0", "1"], inputs=X)
    shaken(model)
    want, on = plain(X), model(X)
    with cc.bypass(model):
        assert torch.equal(model(X), want)
    assert torch.equal(model(X), on)
    with pytest.raises(RuntimeError, match="stop"), cc.bypass(model):
        raise RuntimeError("stop")
    assert torch.equal(model(X), on)


def test_bypass_nests():
    model = inserted()
    on = model(X)
    with cc.bypass(model):
        off = model(X)
        with cc.bypass(model):
            assert torch.equal(model(X), off)
        assert torch.equal(model(X), off), "the inner bypass ended the outer one"
        with cc.bypass(model[1]):
            pass
        assert torch.equal(model(X), off)
    assert torch.equal(model(X), on)


def test_bypass_reaches_the_networks_of_helpers():
    class Helper:
        def __init__(self, model):
            self.model = model

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.predictor = Helper(inserted())

    owner = Owner()
    inner = owner.predictor.model
    on = inner(X)
    with cc.bypass(owner):
        assert not torch.equal(inner(X), on)
    assert torch.equal(inner(X), on)


def test_a_bypassed_block_is_not_monitored():
    model = inserted().train()
    with cc.bypass(model):
        model(X)
    for _, block in cc.blocks(model):
        assert block.r_ema.item() == 1.0
        assert block.stats.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("training", [True, False])
def test_blocks_follow_dtype_and_mode(dtype, training):
    model = model_of().to(dtype).train(training)
    model[1].train(not training)
    cc.insert_(model, ["0", "1", "2"], inputs=X.to(dtype))
    modes = [block.training for _, block in cc.blocks(model)]
    assert modes == [training, not training, training]
    for _, block in cc.blocks(model):
        assert {p.dtype for p in block.parameters()} == {dtype}
        assert block.r_ema.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert model(X.to(dtype)).dtype == dtype


def test_blocks_follow_the_device():
    spec = cc.insert_(model_of(), "1", inputs=X).spec
    with torch.device("meta"):
        model = model_of()
    cc.insert_(model, spec)
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}


def test_blocks_move_with_the_model():
    model = inserted().double().eval()
    assert model(X.double()).dtype == torch.float64
    assert not any(block.training for _, block in cc.blocks(model))
    model.train()
    assert all(block.training for _, block in cc.blocks(model))


def test_hosts_that_swap_forward_keep_the_block():
    """As a fuse or an export does: another forward on the instance, the layer called as before."""
    model = inserted("1")
    want, runs = model(X), count_runs(model)
    layer = model[1]
    layer.forward = lambda x: nn.functional.conv2d(x, layer.weight, layer.bias)
    assert torch.equal(model(X), want)
    assert list(runs.values()) == [1]


def test_gradients_reach_layer_and_block():
    model = inserted().train()
    model(X).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_extra_state_of_a_host_need_not_be_a_tensor():
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return self.conv(x)

        def get_extra_state(self):
            return {"scale": 3}

        def set_extra_state(self, state):
            pass

    insertion = cc.insert_(Extra(), "conv", inputs=X)
    assert (insertion.kept, insertion.total) == (2, 2)


def test_a_nested_insertion_counts_the_blocks_that_are_there():
    model = inserted("0")
    before = len(model.state_dict())
    insertion = cc.insert_(model, "1", inputs=X)
    assert insertion.kept == insertion.total == before
    assert len(cc.blocks(model)) == 2
