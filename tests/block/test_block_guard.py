"""Guard: foreign blocks keep r_min of the signal, healthy ones are left alone bit for bit."""

import copy

import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam import Guard, Stats, commit_
from coordcbam.block import InputError, OptionTypeError, OptionValueError

timm_layers = pytest.importorskip("timm.layers")


class Times(nn.Module):
    """A function as a module: x times a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class InPlace(Times):
    """The same, which writes over its input; it may return another tensor, or leave small maps."""

    def __init__(self, factor, *, returns_another=False, from_size=0):
        super().__init__(factor)
        self.returns_another = returns_another
        self.from_size = from_size

    def forward(self, x):
        if x.shape[2] < self.from_size:
            return self.factor * x
        x.mul_(self.factor)
        return 1.0 * x if self.returns_another else x


def rho(x, out):
    return ((x * out).flatten(1).sum(1) / (x * x).flatten(1).sum(1)).mean().item()


@pytest.mark.parametrize("name", ["cbam", "coord", "se", "eca"])
@pytest.mark.parametrize("r_min", [0.5, 0.9])
def test_timm_blocks_keep_r_min(name, r_min):
    guard = Guard(timm_layers.create_attn(name, 32), r_min).train()
    guard.inner.eval()  # a batch norm inside would be another function in training
    x = torch.randn(8, 32, 6, 6)
    alone = rho(x, guard.inner(x))
    assert alone < 0.7
    first = rho(x, guard(x))
    commit_(guard)
    guard.eval()
    for out in (first, rho(x, guard(x))):
        assert out == pytest.approx(max(r_min, alone), abs=1e-3)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.7])
@pytest.mark.parametrize("training", [True, False])
def test_a_healthy_block_is_left_alone_bit_for_bit(factor, training):
    guard = Guard(Times(factor)).train(training)
    for _ in range(3):
        x = torch.randn(4, 8, 5, 5)
        want = guard.inner(x)
        if factor == 0.9:  # at r_min itself, up to rounding
            torch.testing.assert_close(guard(x), want)
        else:
            assert torch.equal(guard(x), want)
        commit_(guard)


def test_the_first_batch_is_judged_by_its_own_value_and_only_it():
    guard = Guard(Times(0.2)).train()
    x = torch.randn(4, 8, 5, 5)
    assert rho(x, guard(x)) == pytest.approx(0.9)
    commit_(guard)
    guard.inner.factor = 0.6  # now the average rules, which has not seen this
    assert rho(x, guard(x)) == pytest.approx(1 + (0.1 / 0.8) * (0.6 - 1))
    commit_(guard)
    assert guard.updates.item() == 2


def test_an_unusable_first_batch_is_not_judged():
    guard = Guard(Times(0.2)).train()
    assert torch.equal(guard(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))
    bad = torch.ones(2, 3, 4, 4)
    bad[0, 0, 0, 0] = torch.nan
    guard(bad)
    commit_(guard)
    assert (guard.r_ema.item(), guard.updates.item(), guard.skipped.item()) == (1.0, 0, 1)
    x = torch.randn(4, 3, 4, 4)
    assert rho(x, guard(x)) == pytest.approx(0.9)


def test_eval_before_any_training_is_the_block_as_it_is():
    guard, x = Guard(Times(0.2)).eval(), torch.randn(2, 3, 4, 4)
    assert torch.equal(guard(x), 0.2 * x)


def test_watch_measures_and_returns_the_block_itself():
    guard, x = Guard(Times(0.2), watch=True).train(), torch.randn(2, 3, 4, 4)
    for _ in range(2):
        assert torch.equal(guard(x), 0.2 * x)
        commit_(guard)
    assert guard.r_ema.item() == pytest.approx(0.2)
    assert guard.alpha_eff().item() == 1.0


def test_r_max():
    guard, x = Guard(Times(3.0), r_max=1.5).train(), torch.randn(2, 3, 4, 4)
    assert rho(x, guard(x)) == pytest.approx(1.5)


def test_gradients_reach_the_inner_block():
    guard = Guard(nn.Conv2d(8, 8, 1)).train()
    guard(torch.randn(2, 8, 4, 4)).square().sum().backward()
    assert guard.inner.weight.grad.abs().sum() > 0


def test_numbers_of_the_maps_are_unknown_and_the_others_are_there():
    guard = Guard(Times(0.5), r_min=0.7).train()
    guard(torch.randn(2, 3, 4, 4))
    stats = Stats(*guard.stats.tolist())
    assert stats.rho == stats.rms == pytest.approx(0.5)
    assert stats.r_out_pre == stats.r_block == pytest.approx(0.5, rel=1e-4)
    assert stats.alpha == 1.0
    assert stats.alpha_eff == pytest.approx(0.6)
    maps = Stats._fields[8 : Stats._fields.index("rho")]
    assert all(getattr(stats, name) != getattr(stats, name) for name in maps)  # NaN


def test_half_precision_and_layout():
    guard = Guard(nn.Conv2d(8, 8, 1)).to(torch.bfloat16).train()
    x = torch.randn(2, 8, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    out = guard(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert guard.r_ema.dtype == torch.float32


def test_autocast_gives_the_blocks_own_dtype():
    guard = Guard(nn.Conv2d(8, 8, 1)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert guard(torch.randn(2, 8, 4, 4)).dtype == torch.bfloat16


def test_state_has_its_average_and_the_blocks_own_keys():
    guard = Guard(nn.Conv2d(8, 8, 1))
    names = ["r_ema", "updates", "skipped", "inner.weight", "inner.bias"]
    assert list(guard.state_dict()) == names
    copy.deepcopy(guard).load_state_dict(guard.state_dict())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"inner": "cbam"}, OptionTypeError, "Guard.inner='cbam': expected an nn.Module"),
        ({"r_min": 0.0}, OptionValueError, "r_min=0.0: expected a finite number > 0"),
        ({"r_min": 1.0}, OptionValueError, "r_min=1.0: expected a number < 1"),
        ({"r_min": None}, OptionTypeError, "Guard.r_min=None: expected a number in"),
        ({"r_min": "0.9"}, OptionTypeError, "r_min='0.9'"),
        ({"r_min": float("nan")}, OptionValueError, "r_min=nan"),
        ({"r_max": 1.0}, OptionValueError, "r_max=1.0: expected a finite number > 1"),
        ({"r_max": 2.0, "watch": True}, OptionValueError, "r_max=2.0: expected None unless"),
        ({"momentum": 1.0}, OptionValueError, "ema_momentum=1.0"),
        ({"watch": 1}, OptionTypeError, "Guard.watch=1: expected True or False"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        Guard(**{"inner": Times(1.0), **arguments})


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (nn.Conv2d(8, 4, 1), r"the block made \(2, 4, 5, 5\) of \(2, 8, 5, 5\), expected the same"),
        (nn.MaxPool2d(2), r"made \(2, 8, 2, 2\)"),
        (nn.AdaptiveMaxPool2d(5, return_indices=True), "the block made tuple"),
    ],
)
def test_a_block_that_changes_the_shape_is_refused(inner, words):
    with pytest.raises(InputError, match=words):
        Guard(inner)(torch.randn(2, 8, 5, 5))


def test_without_a_block_it_cannot_be_called():
    with pytest.raises(InputError, match="attached to another block"):
        Guard()(torch.randn(2, 8, 5, 5))


def guards_of(block, r_min=0.9):
    """A copy of the block in a guard, and the block with a guard attached."""
    around, model = Guard(copy.deepcopy(block), r_min), nn.ModuleDict({"block": block})
    cc.guard_(model, "block", r_min=r_min)
    return {"around": around, "attached": block}


@pytest.mark.parametrize("kind", ["around", "attached"])
@pytest.mark.parametrize("returns_another", [False, True])
@pytest.mark.parametrize("mode", ["train", "no_grad", "inference"])
def test_a_block_that_works_in_place_is_guarded(kind, returns_another, mode):
    model = guards_of(InPlace(0.5, returns_another=returns_another))[kind].train()
    ((_, guard),) = cc.blocks(model)
    x = torch.randn(4, 8, 5, 5)
    for _ in range(2):
        torch.testing.assert_close(model(x.clone()), 0.9 * x)
        commit_(guard)
    assert guard.r_ema.item() == pytest.approx(0.5)
    model.eval()
    with torch.inference_mode(mode == "inference"), torch.set_grad_enabled(mode == "train"):
        for _ in range(2):
            torch.testing.assert_close(model(x.clone()), 0.9 * x)


@pytest.mark.parametrize("kind", ["around", "attached"])
def test_the_gradient_of_a_block_that_works_in_place(kind):
    gradients = []
    for block in (InPlace(0.5), Times(0.5)):
        model, x = guards_of(block)[kind].train(), torch.ones(2, 3, 4, 4, requires_grad=True)
        model(1.0 * x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", ["around", "attached"])
@pytest.mark.parametrize("form", ["compile", "export", "strict", "trace"])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_graphs_of_a_block_that_works_in_place(kind, form, known):
    model, x = guards_of(InPlace(0.5))[kind], torch.randn(2, 8, 5, 5)
    ((_, guard),) = cc.blocks(model)
    guard.r_ema.fill_(0.5)
    model.eval()
    if known:
        model(x.clone())
    if form == "compile":
        graph = torch.compile(model, backend="aot_eager", fullgraph=True)
    elif form == "trace":
        graph = torch.jit.trace(model, (x.clone(),))
    else:
        graph = torch.export.export(model, (x.clone(),), strict=form == "strict").module()
    with torch.no_grad():
        torch.testing.assert_close(graph(x.clone()), 0.9 * x)


@pytest.mark.parametrize("kind", ["around", "attached"])
def test_a_block_is_called_with_the_input_itself_and_nothing_is_left_on_it(kind):
    model, x = guards_of(InPlace(0.5))[kind].eval(), torch.ones(2, 3, 4, 4)
    out = model(x)
    assert (x == 0.5).all()  # as without a guard
    assert not any(vars(tensor).get("coordcbam_before") for tensor in (x, out))


@pytest.mark.parametrize("kind", ["around", "attached"])
def test_an_ordinary_block_is_copied_for_once_in_a_mode(kind, monkeypatch):
    model, x = guards_of(Times(0.5))[kind], torch.randn(2, 3, 4, 4)
    cloned, clone = [], torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda t: cloned.append(t.shape) or clone(t))
    for training in (True, False):
        for _ in range(3):
            model.train(training)(x)
    assert len(cloned) == 2
    with torch.inference_mode():
        copy.deepcopy(model)(torch.randn(2, 3, 4, 4))
    assert len(cloned) == 2


def test_a_block_that_is_in_place_only_while_it_trains():
    guard, x = Guard(nn.Dropout2d(0.5, inplace=True)).eval(), torch.ones(8, 64, 2, 2)
    assert torch.equal(guard(x), x)
    guard.train()(x)
    assert guard.overwrites == (False, True)


@pytest.mark.parametrize("kind", ["around", "attached"])
def test_a_block_that_turns_to_working_in_place_says_so_once(kind):
    model = guards_of(InPlace(0.5, from_size=6))[kind].train()
    model(torch.randn(2, 3, 4, 4))
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(InputError, match="the block overwrote its input, which it had not done"):
        model(x.clone())
    torch.testing.assert_close(model(x.clone()), 0.9 * x)


def test_an_averaged_copy_knows_what_the_block_does():
    live, averaged = Guard(Times(0.5)).train(), Guard(Times(0.5)).eval()
    live(torch.randn(2, 3, 4, 4))
    cc.copy_monitor_state_(live, averaged)
    assert averaged.overwrites == (None, False)


def test_a_reset_guard_has_seen_nothing():
    guard = Guard(Times(0.5)).train()
    guard(torch.randn(2, 3, 4, 4))
    commit_(guard)
    guard(torch.randn(2, 3, 4, 4))
    guard.reset_parameters()
    commit_(guard)
    assert (guard.r_ema.item(), guard.updates.item()) == (1.0, 0)
