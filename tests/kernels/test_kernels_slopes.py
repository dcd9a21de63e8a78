"""The side nets backwards in C: what autograd finds in their twin, in float64."""

import copy
import dataclasses

import pytest
import torch

from _support.side_nets import CONFIGS, SIZES, STEP2, block_of, drawn, weights_of
from coordcbam.kernels import cpu, slopes
from coordcbam.kernels import packed as packing
from coordcbam.kernels.passes import Factors, Statistics
from coordcbam.kernels.side import GroupNorm, Linear, attended, leaves

MISSING = cpu.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def with_leaves(side, new):
    """The same nets, of other weights."""

    def linear(name):
        return Linear(new[f"{name}.weight"], new.get(f"{name}.bias"))

    def axis(old, i):
        return dataclasses.replace(
            old,
            taps=new[f"axes.{i}.taps"],
            into=(linear(f"axes.{i}.into"),),
            head=linear(f"axes.{i}.head"),
            strength=new[f"axes.{i}.strength"],
        )

    def norm(old, i):
        if not isinstance(old, GroupNorm):
            return old
        weight, bias = (new.get(f"norms.{i}.{part}") for part in ("weight", "bias"))
        return dataclasses.replace(old, weight=weight, bias=bias)

    channel, coord = side.channel, side.coord
    return dataclasses.replace(
        side,
        channel=dataclasses.replace(
            channel,
            fc1=linear("fc1"),
            fc2=linear("fc2"),
            router=channel.router and (linear("first"), linear("last")),
            temperature=new["temperature"],
        ),
        coord=dataclasses.replace(
            coord,
            rows=axis(coord.rows, 0),
            cols=axis(coord.cols, 1),
            refine=linear("refine"),
            norm=norm(coord.norm, 0),
            refine_norm=norm(coord.refine_norm, 1),
        ),
    )


def by_autograd(block, found, by, dtype=torch.float64):
    """Gradients of statistics and leaves."""
    side = weights_of(copy.deepcopy(block).to(dtype))
    new = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves(side).items()}
    statistics = Statistics(*(t.to(dtype, copy=True).requires_grad_() for t in found))
    _, factors = attended(statistics, with_leaves(side, new))
    inputs = [*statistics, *new.values()]
    grads = torch.autograd.grad(list(factors), inputs, [g.to(dtype) for g in by])
    return dict(zip([*Statistics._fields, *new], grads, strict=True))


def in_c(block, found, by, side=None):
    side = weights_of(block) if side is None else side
    statistics, weights = slopes.gradients(found, by, side, packing.pack(side))
    return statistics._asdict() | weights


def case(name, size):
    block, x = block_of(size[1], CONFIGS[name]), drawn(size)
    found = cpu.profile(x)
    batch, channels, height, width = size
    by = Factors(
        torch.randn(batch, channels),
        torch.randn(batch, channels, height),
        torch.randn(batch, channels, width),
    )
    return block, found, by


def weigh(found, wanted, dilation):
    """The largest difference of every gradient, in parts of its largest element."""
    worst = {}
    for name, exact in wanted.items():
        off = found[name].double() - exact
        if name.endswith("taps"):  # what lies between them is no weight
            off = off[:, sorted({0, dilation - 1, dilation, dilation + 1, 2 * dilation})]
        worst[name] = (off.abs().max() / exact.abs().max().clamp_min(1e-2)).item()
    return worst


@pytest.mark.parametrize("lanes", [8, 4, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_autograd_s(monkeypatch, name, size, lanes):
    """As near as PyTorch's own in float32, where what is added up cancels, too.

    A single number is the sum of everything, so it shows the rounding of all that was before it;
    the router's gradients all come from one such number a sample.
    """
    monkeypatch.setattr(cpu, "WIDEST", lanes)
    block, found, by = case(name, size)
    mine, exact = in_c(block, found, by), by_autograd(block, found, by)
    assert mine.keys() == exact.keys()
    dilation = block.config.coord.dilation
    theirs = weigh(by_autograd(block, found, by, torch.float32), exact, dilation)
    for key, off in weigh(mine, exact, dilation).items():
        summed = exact[key].numel() == 1 or key.startswith(("first", "last"))
        least = 3e-4 if summed else 2e-5
        assert off < least + 5 * theirs[key], (key, off, theirs[key])


@pytest.mark.parametrize("name", ["step2", "step3 log"])
def test_threads_and_batches_change_no_bit(monkeypatch, name):
    block, found, by = case(name, (7, 40, 9, 13))
    monkeypatch.setattr(cpu, "GRAIN", 1)
    side = weights_of(block)  # whose products are PyTorch's, which do depend on threads
    once = in_c(block, found, by, side)
    torch.set_num_threads(3)
    again = in_c(block, found, by, side)
    torch.set_num_threads(1)
    for key, value in once.items():
        assert torch.equal(value, again[key]), key
    first = in_c(block, *(type(t)(*(v[:1] for v in t)) for t in (found, by)), side)
    for key in Statistics._fields:
        assert torch.equal(first[key], once[key][:1]), key


def test_a_sample_that_is_not_finite_spoils_its_own_statistics_only():
    block, found, by = case("step2", (3, 12, 9, 13))
    clean = in_c(block, found, by)
    found.row_mean[1, 4, 3] = float("nan")
    odd = in_c(block, found, by)
    assert odd["row_mean"][1].isnan().any()
    for key in Statistics._fields:
        assert torch.equal(odd[key][::2], clean[key][::2]), key


def test_what_is_closed_passes_nothing():
    """A hard gate at its end, and a relu at 0, have no slope, as in PyTorch."""
    config = STEP2(coord_act="relu", coord_norm="none", ca_act="relu", ca_gate="hardsigmoid")
    block = block_of(8, config)
    with torch.no_grad():
        block.coord.h_attention_head.bias.fill_(50.0)
        block.ca.fc2.bias.fill_(-50.0)
        block.ca.fc1.weight.zero_(), block.ca.fc1.bias.zero_()
    found = cpu.profile(drawn((2, 8, 9, 13)))
    by = Factors(torch.randn(2, 8), torch.randn(2, 8, 9), torch.randn(2, 8, 13))
    mine = in_c(block, found, by)
    for name in ("axes.0.head.weight", "axes.0.into.weight", "axes.0.taps", "fc1.weight"):
        assert not mine[name].any(), name
    assert mine["axes.1.head.weight"].any()
    assert not mine["row_mean"].any()


def test_weights_of_another_width_are_refused():
    _, found, by = case("step2", (1, 8, 4, 4))
    side = weights_of(block_of(9, CONFIGS["step2"]))
    with pytest.raises(ValueError, match="x has 8 channels, the weights are for 9"):
        slopes.gradients(found, by, side, packing.pack(side))
