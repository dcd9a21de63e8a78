"""Other people's blocks behind a layer: by a word, with or without a guard, and out again."""

import copy

import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.insert import Foreign, ForeignBlock, attached
from coordcbam.insert.plan import PlaceError

X = torch.randn(2, 8, 10, 10, generator=torch.Generator().manual_seed(0))


class Half(nn.Module):
    """y = factor * x, with one parameter a channel."""

    def __init__(self, channels, factor=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), factor))

    def forward(self, x):
        return x * self.weight


class Smaller(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x[:, :, ::2]


class InPlace(Half):
    def forward(self, x):
        return x.mul_(0.5) + 0.0


class Holder:
    class Inner(Half):
        pass


class Fussy(nn.Module):
    def __init__(self, channels):
        super().__init__()
        raise ValueError(f"no {channels}\nchannels")


HERE = __name__


def model():
    return nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))


@pytest.mark.parametrize("block", [Half, f"{HERE}:Half"])
def test_a_class_or_its_word(block):
    net = model()
    before, keys = net(X), set(net.state_dict())
    done = cc.insert_(net, "1", inputs=X, block=block, options={"factor": 0.25})
    torch.testing.assert_close(net(X), 0.25 * before)
    assert (done.kept, done.total, done.plan.parameters) == (4, 4, 8)
    assert set(net.state_dict()) - keys == {"1.ccattn.inner.weight"}
    assert attached(net) == ["1"]
    assert cc.blocks(net) == []  # nothing of it is measured
    with cc.bypass(net):
        assert torch.equal(net(X), before)
    assert cc.remove_(net) == 1
    assert torch.equal(net(X), before)


def test_a_guard_around_it_keeps_its_share():
    net = model().train()
    before = net(X)
    cc.insert_(net, "1", inputs=X, block=Half, options={"factor": 0.1}, r_min=0.8)
    ((path, guard),) = cc.blocks(net)
    assert (path, guard.monitor, guard.rescue.r_min) == ("1.ccattn.inner", True, 0.8)
    torch.testing.assert_close(net(X), 0.8 * before)
    cc.commit_(net)
    assert guard.updates == 1
    torch.testing.assert_close(net.eval()(X), 0.8 * before)
    with cc.bypass(net):
        assert torch.equal(net(X), before)


def test_a_spec_rebuilds_it_and_an_older_reader_refuses_it():
    net, other = model(), model()
    done = cc.insert_(net, "0", inputs=X, block=Half, options={"factor": 0.3}, r_min=0.5)
    assert done.spec["version"] == 2
    cc.insert_(other, done.spec)
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(X), other.eval()(X))
    assert cc.blocks(other)[0][1].rescue.r_min == 0.5
    with pytest.raises(UsageError, match="version 1: this coordcbam reads 1, and 2 with a 'block'"):
        cc.insert_(model(), {**done.spec, "version": 1})


def test_timm_by_name():
    pytest.importorskip("timm")
    net = model()
    cc.insert_(net, "0", inputs=X, block="timm:se", options={"rd_ratio": 0.5})
    assert type(net[0].ccattn.inner).__name__ == "SEModule"
    assert net[0].ccattn.inner.fc1.out_channels == 8  # timm's own rounding of 4
    copy.deepcopy(net)(X).sum().backward()


def test_it_is_on_the_layers_dtype_and_in_its_mode():
    net = model().double().eval()
    cc.insert_(net, "0", inputs=X.double(), block=Half)
    block = net[0].ccattn
    assert (block.inner.weight.dtype, block.training) == (torch.float64, False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"block": "cbam"}, "block='cbam': expected 'timm:NAME'"),
        ({"block": 3}, "block=3: expected"),
        ({"block": ":x"}, "block=':x': expected"),
        ({"block": "torch.nn:"}, "block='torch.nn:': expected"),
        ({"block": ".nn:Identity"}, "block='.nn:Identity': expected"),
        ({"block": f"{HERE}:Holder.Iner"}, "no class 'Holder.Iner' in .*: nearest are 'Inner'"),
        ({"block": "no.such.module:X"}, "no module 'no.such.module'"),
        ({"block": "torch.nn:Identityy"}, "no class 'Identityy' in torch.nn: nearest are 'Ident"),
        ({"block": "timm:cbm"}, "no block 'timm:cbm': nearest are 'cbam'"),
        ({"block": f"{HERE}:Fussy"}, "cannot be made: no 8 channels"),
        ({"block": f"{HERE}:Smaller"}, r"makes \(1, 8, 4, 8\) of \(1, 8, 8, 8\): expected the sam"),
        ({"block": Half, "options": {"ratio": 1}}, "unexpected keyword argument 'ratio'"),
        ({"block": Half, "options": 4}, "options=4: expected a mapping"),
        ({"block": Half, "r_min": 1.5}, "r_min"),
        ({"block": Half, "config": cc.BlockConfig.step2()}, "a config is for our block alone"),
        ({"options": {"a": 1}}, "give block, too"),
        ({"r_min": 0.9}, "give block, too"),
    ],
)
def test_what_is_refused_leaves_the_model_alone(arguments, text):
    net = model()
    keys = list(net.state_dict())
    with pytest.raises(UsageError, match=text) as caught:
        cc.insert_(net, "0", inputs=X, **arguments)
    assert "\n" not in str(caught.value)
    assert list(net.state_dict()) == keys
    assert attached(net) == []


def test_a_class_that_nobody_can_import_is_refused():
    class Local(Half):
        pass

    with pytest.raises(UsageError, match="a class at the top level of a module"):
        Foreign.of(Local)


def test_plain_data_and_back():
    foreign = Foreign.of("a.b:C", {"k": 1}, 0.9)
    assert Foreign.from_dict(foreign.to_dict()) == foreign
    with pytest.raises(UsageError, match="expected a mapping of name, options, r_min"):
        Foreign.from_dict({"nam": "a.b:C"})


def test_deploy_and_copies_keep_it():
    net = model().eval()
    cc.insert_(net, "0", inputs=X, block=Half)
    assert torch.equal(cc.deploy(net)(X), net(X))
    assert isinstance(copy.deepcopy(net)[0].ccattn, ForeignBlock)


@pytest.mark.parametrize("r_min", [None, 0.9])
def test_one_that_works_in_place_gets_a_copy(r_min):
    net = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Identity()).train()
    before = net(X)
    cc.insert_(net, "1", inputs=X, block=InPlace, r_min=r_min)
    met = []
    net[0].register_forward_hook(lambda _layer, _args, out: met.append(out))
    torch.testing.assert_close(net(X), (r_min or 0.5) * before)
    assert torch.equal(met[0], before)
    cc.insert_(net, "0", inputs=X, block=Half)
    assert not net[0].ccattn.copies


def test_a_class_in_a_class():
    for block in (Holder.Inner, f"{HERE}:Holder.Inner"):
        assert type(Foreign.of(block).build(4).inner) is Holder.Inner


def test_the_probe_draws_nothing_from_the_users_generator():
    torch.manual_seed(0)
    Foreign.of(Half).build(4)
    drawn = torch.rand(1)
    assert torch.equal(drawn, torch.rand(1, generator=torch.Generator().manual_seed(0)))


def test_a_spec_with_a_place_twice_is_refused():
    done = cc.insert_(model(), "0", inputs=X, block=Half)
    spec, net = done.spec, model()
    with pytest.raises(PlaceError, match="has '0' twice: a layer can carry one block"):
        cc.insert_(net, {**spec, "places": spec["places"] * 2})
    assert attached(net) == []
    guards = {"version": 1, "places": [{"path": "0"}] * 2, "guard": {}}
    with pytest.raises(PlaceError, match="has '0' twice"):
        cc.guard_(net, guards)
