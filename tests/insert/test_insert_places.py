"""Finding places: globs, lists, predicates, containers; refusals that leave the model alone."""

import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam.insert import ATTRIBUTE
from coordcbam.insert.plan import PlaceError


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(1)


class Unused(nn.Module):
    """Has a layer that its forward never calls."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Conv2d(3, 3, 1)
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 1)])

    def forward(self, x):
        return self.layers[0](x)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        )
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.head(self.stage(self.stem(x)))


X = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))


def picture(model):
    """Everything an insertion could leave behind."""
    return (
        list(model.state_dict()),
        {path: (type(m), m.training, dict(m._forward_hooks)) for path, m in model.named_modules()},
    )


@pytest.mark.parametrize(
    ("at", "paths"),
    [
        ("head", ["head"]),
        ("stem.0", ["stem.0"]),
        ("stem", ["stem.2"]),
        ("stage", ["stage.1.1"]),
        ("stage.*.0", ["stage.0.0", "stage.1.0"]),
        ("stage.?", ["stage.0.1", "stage.1.1"]),
        ("st[ae]*.0.0", ["stage.0.0"]),
        (["head", "stem"], ["stem.2", "head"]),
        (("stem.0", "stem.0", "stem*0"), ["stem.0"]),
        (["stage", "stage.1", "stage.1.1"], ["stage.1.1"]),
        (iter(["head"]), ["head"]),
        (lambda path, module: isinstance(module, nn.Conv2d), None),
        (lambda path, module: path.endswith("head"), ["head"]),
    ],
)
def test_places(at, paths):
    model = Toy()
    plan = cc.plan(model, at, inputs=X)
    paths = paths or ["stem.0", "stage.0.0", "stage.1.0", "head"]
    assert [row.path for row in plan.rows] == paths
    for row in plan.rows:
        layer = model.get_submodule(row.path)
        assert row.layer == type(layer).__name__
        block = cc.CoordCBAM(row.channels)
        assert row.parameters == sum(p.numel() for p in block.parameters())
    assert plan.parameters == sum(row.parameters for row in plan.rows)


def test_a_plan_prints_its_rows():
    lines = str(cc.plan(Toy(), ["stem", "head"], inputs=X)).splitlines()
    assert lines[0].split() == ["layer", "path", "channels", "parameters", "added"]
    assert lines[1].split()[:3] == ["ReLU", "stem.2", "8"]
    assert len({len(line) for line in lines}) == 1


def test_a_plan_changes_nothing():
    model = Toy().train()
    model.stem[1].eval()
    before, running = picture(model), model.stem[1].running_mean.clone()
    cc.plan(model, "stem*", inputs=X)
    assert picture(model) == before
    assert torch.equal(model.stem[1].running_mean, running)
    assert all(p.grad is None for p in model.parameters())


REFUSED = {
    "no such layer": (Toy, {"at": "stagee"}, "no layer 'stagee' in Toy: nearest are 'stage'"),
    "no match of a glob": (Toy, {"at": "neck.*"}, r"no layer 'neck\.\*' in Toy"),
    "one of two": (Toy, {"at": ["head", "neck"]}, "no layer 'neck'"),
    "empty word": (Toy, {"at": ""}, "no layer ''"),
    "empty list": (Toy, {"at": []}, "names no place"),
    "predicate": (Toy, {"at": lambda path, module: False}, "no layer of the model matches"),
    "None": (Toy, {"at": None}, "at=None: expected a path"),
    "a number": (Toy, {"at": 16}, "at=16: expected a path"),
    "no inputs": (Toy, {"at": "head", "inputs": None}, "inputs=None"),
    "not run": (Unused, {"at": "idle"}, r"idle \(Conv2d\) did not run"),
    "a list of layers": (Unused, {"at": "layers"}, r"layers \(ModuleList\) did not run"),
    "tuple": (lambda: nn.Sequential(nn.ReLU(), Pair()), {"at": "1"}, r"1 \(Pair\) gives tuple"),
    "flat": (lambda: nn.Sequential(nn.ReLU(), Flat()), {"at": "1"}, r"1 \(Flat\) gives \(2, 144\)"),
    "empty Sequential": (
        lambda: nn.Sequential(nn.ReLU(), nn.Sequential()),
        {"at": "1"},
        "1 is an empty Sequential",
    ),
    "config": (Toy, {"at": "head", "config": "step2"}, "expected a BlockConfig"),
    "too narrow for the config": (
        Toy,
        {"at": "head", "config": cc.BlockConfig.from_notebook(ca_min_hidden=-1)},
        "leaves 0 hidden units",
    ),
    "monitor": (Toy, {"at": ["stem", "head"], "monitor": "off"}, "monitor='off'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_leaves_the_model_as_it_was(name):
    make, arguments, text = REFUSED[name]
    model = make()
    before = picture(model)
    with pytest.raises(ValueError, match=text) as caught:
        cc.insert_(model, **{"inputs": X, **arguments})
    assert "\n" not in str(caught.value)
    assert picture(model) == before


def test_a_model_that_cannot_run_is_left_as_it_was():
    model = Toy()
    before = picture(model)
    with pytest.raises(RuntimeError):
        cc.insert_(model, "head", inputs=torch.zeros(1, 5, 4, 4))
    assert picture(model) == before


def test_a_place_is_taken_once():
    model = Toy()
    cc.insert_(model, "stem", inputs=X)
    before = picture(model)
    for at in ("stem", "stem.2", ["head", "stem"]):
        with pytest.raises(PlaceError, match=r"stem\.2 has a block already"):
            cc.insert_(model, at, inputs=X)
    assert picture(model) == before


def test_blocks_are_no_places():
    model = Toy()
    cc.insert_(model, "stem", inputs=X)
    with pytest.raises(PlaceError, match="no layer"):
        cc.plan(model, f"stem.2.{ATTRIBUTE}", inputs=X)
    rows = cc.plan(model, lambda path, module: isinstance(module, nn.Conv2d), inputs=X).rows
    assert [row.path for row in rows] == ["stem.0", "stage.0.0", "stage.1.0", "head"]


def test_named_and_sliced_sequentials():
    """The last child's own name, which need not be its number."""
    named = nn.Sequential()
    named.add_module("conv", nn.Conv2d(3, 8, 1))
    named.add_module("act", nn.ReLU())
    sliced = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())[1:]
    model = nn.Sequential(named, sliced)
    insertion = cc.insert_(model, ["0", "1"], inputs=X)
    assert [row.path for row in insertion.plan.rows] == [
        f"0.{next(reversed(named._modules))}",
        f"1.{next(reversed(sliced._modules))}",
    ]
    for row in insertion.plan.rows:
        assert model.get_submodule(row.path).ccattn.channels == 8


def test_inputs_may_be_a_tuple():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x, y):
            return self.conv(x) + y

    assert cc.plan(Two(), "conv", inputs=(X, 1.0)).rows[0].channels == 8


class Last(nn.Module):
    """A map with its channels last, as a Swin's stage gives it, and its image's map behind it."""

    def __init__(self, channels):
        super().__init__()
        self.stage = nn.Identity()
        self.channels = channels

    def forward(self, x):
        b, _, h, w = x.shape
        return self.stage(x.new_zeros(b, h // 4, w // 4, self.channels)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
@pytest.mark.parametrize("channels", [48, 96])
def test_channels_last_is_refused(size, channels):
    model = Last(channels)
    with pytest.raises(PlaceError, match=rf"{channels}\), channels last: expected one \(B, C, H"):
        cc.insert_(model, "stage", inputs=torch.zeros(1, 3, *size))
    assert not model.stage._modules


@pytest.mark.parametrize(
    "shape", [(16, 16, 16), (16, 16, 15), (16, 8, 32), (32, 60, 58), (8, 1, 1)]
)
def test_a_map_whose_proportions_are_not_the_images_is_not(shape):
    class Makes(nn.Module):
        def forward(self, x):
            return x.new_zeros(x.shape[0], *shape)

    model = nn.Sequential(Makes())
    assert cc.plan(model, "0", inputs=torch.zeros(1, 3, 64, 64)).rows[0].channels == shape[0]
