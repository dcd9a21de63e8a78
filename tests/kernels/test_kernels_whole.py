"""The forward in one call: the twin's numbers, the passes' bits, whatever is asked for besides."""

import copy
import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from _support.side_nets import (
    ALPHA,
    CONFIGS,
    LAYOUTS,
    SIZES,
    STEP2,
    block_of,
    drawn,
    weights_of,
    wide,
)
from coordcbam import BlockConfig, CoordCBAM
from coordcbam.block.fold import folded, tensors_of
from coordcbam.kernels import algebra, cpu, whole
from coordcbam.kernels import packed as packing
from coordcbam.kernels.passes import Factors, Statistics
from coordcbam.kernels.side import Linear, attended

MISSING = cpu.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def assert_close(found, wanted):
    torch.testing.assert_close(found.double(), wanted, rtol=1.3e-6, atol=1e-5, equal_nan=True)


def assert_same(found, wanted):
    """The same bits, NaN included, in tensors and in tuples of them."""
    if isinstance(wanted, tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif wanted is None:
        assert found is None
    else:
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def check(x, block):
    """Against the twin in float64, from the weights on; and the bits of the passes in between."""
    side = weights_of(block)
    made = whole.forward(x, packing.pack(side), ALPHA, sums=True, keep=True)
    alpha, alone = torch.tensor(ALPHA), cpu.profile(x)
    assert_same(made.found, alone)
    out, _ = cpu.measure(x, made.factors, side.shape, alpha)
    assert_same(made.out, out)
    assert made.out.stride() == x.stride()
    exact = weights_of(copy.deepcopy(block).double())
    with torch.no_grad():
        maps, factors = attended(algebra.profile(x.double()), exact)
        out, sums = algebra.measure(x.double(), factors, exact.shape, alpha.double())
    for found, wanted in zip(made.factors, factors, strict=True):
        assert_close(found, wanted)
    for found, wanted in zip(made.maps, maps, strict=True):
        assert (found is None) == (wanted is None)
        if wanted is not None:
            assert found.shape == wanted.shape
            assert found.is_contiguous()
            assert_close(found, wanted)
    scale = x.abs().max().double()
    assert_close(made.out / scale, out / scale)
    assert made.sums.dtype == torch.float64
    _, terms = algebra.measure(x.abs().double(), factors, exact.shape, alpha.double())
    assert (made.sums - sums).abs().le(2e-5 * terms + 1e-12).all()
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_option_has_the_twins_numbers(config, layout):
    for size in [(2, 40, 9, 13), (1, 64, 20, 20), (3, 5, 3, 2)]:
        made = check(drawn(size, layout), block_of(size[1], config))
    assert made.factors.rows.std() > 1e-3
    assert made.factors.channel.std() > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_has_the_twins_numbers(size, layout):
    for name in ("step2", "step3 log"):
        check(drawn(size, layout), block_of(size[1], CONFIGS[name]))


@pytest.mark.parametrize("widest", [1, 4])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_machines_with_narrower_vectors(widest, config, monkeypatch):
    monkeypatch.setattr(cpu, "WIDEST", widest)
    for size in [(1, 34, 7, 9), (2, 3, 2, 3)]:
        check(drawn(size), block_of(size[1], config))


@pytest.mark.parametrize("length", range(1, 42))
def test_every_length_of_a_line(length):
    check(drawn((1, 5, length, 4)), block_of(5, CONFIGS["step2"]))
    check(drawn((1, 6, 3, length)), block_of(6, CONFIGS["relu"]))


def test_mixer_and_projection_must_be_one():
    side = weights_of(block_of(40, CONFIGS["step2"]), merge=False)
    assert packing.supports(side) == "a mixer and the projection are not merged"


def test_groups_of_several_channels_and_of_all():
    block = block_of(48, STEP2(coord_reduction=1))
    assert block.coord.shared_bottleneck_norm.num_groups < 48
    check(drawn((2, 48, 9, 13)), block)
    for name, groups in (("norm", 1), ("refine_norm", 3)):
        setattr(block.coord, f"shared_bottleneck_{name}", torch.nn.GroupNorm(groups, 48))
    check(drawn((2, 48, 9, 13)), block)


def test_norms_without_weights_and_layers_without_biases():
    block, x = block_of(40, CONFIGS["step2"]), drawn((2, 40, 9, 13))

    def bare(linear):
        return Linear(linear.weight, None)

    def bare_axis(axis):
        into = tuple(map(bare, axis.into))
        return dataclasses.replace(axis, into=into, head=bare(axis.head))

    def without(side):
        channel, coord = side.channel, side.coord
        norm = dataclasses.replace(coord.norm, weight=None, bias=None)
        router = tuple(map(bare, channel.router))
        return dataclasses.replace(
            side,
            channel=dataclasses.replace(
                channel, fc1=bare(channel.fc1), fc2=bare(channel.fc2), router=router
            ),
            coord=dataclasses.replace(
                coord, norm=norm, rows=bare_axis(coord.rows), cols=bare_axis(coord.cols)
            ),
        )

    sides = [weights_of(block), weights_of(copy.deepcopy(block).double())]
    made = whole.forward(x, packing.pack(without(sides[0])), ALPHA, keep=True)
    _, wanted = attended(wide(cpu.profile(x)), without(sides[1]))
    _, other = attended(wide(cpu.profile(x)), sides[1])
    for name in Factors._fields:
        assert_close(getattr(made.factors, name), getattr(wanted, name))
        assert (getattr(wanted, name) - getattr(other, name)).abs().max() > 1e-3


@pytest.mark.parametrize("reach", [1, 2, 5, 8, 9, 12, 13, 40])
def test_taps_of_any_reach(reach):
    """Also over the whole of an axis, where the far ones find nothing."""
    block = block_of(8, CONFIGS["relu"])
    x = drawn((2, 8, 9, 13))
    side, exact = weights_of(block), weights_of(copy.deepcopy(block).double())
    taps = torch.zeros(8, 2 * reach + 1)
    for place in {0, reach - 1, reach, reach + 1, 2 * reach}:
        taps[:, place] = torch.randn(8)

    def tapped(side, taps):
        axes = {n: dataclasses.replace(getattr(side.coord, n), taps=taps) for n in ("rows", "cols")}
        return dataclasses.replace(side, coord=dataclasses.replace(side.coord, **axes))

    made = whole.forward(x, packing.pack(tapped(side, taps)), ALPHA, keep=True)
    _, wanted = attended(wide(cpu.profile(x)), tapped(exact, taps.double()))
    assert_close(made.factors.rows, wanted.rows)
    assert_close(made.factors.cols, wanted.cols)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["step1", "step2", "step3 log"])
def test_what_is_asked_for_changes_no_bit(name, layout):
    x, side = drawn((3, 70, 9, 13), layout), weights_of(block_of(70, CONFIGS[name]))
    packed = packing.pack(side)
    full = whole.forward(x, packed, ALPHA, sums=True, keep=True)
    alpha = torch.tensor(ALPHA)
    assert_same(full.out, cpu.scale(x, full.factors, side.shape, alpha))
    assert_same(whole.side(full.found, packed), (full.maps, full.factors))
    for sums in (False, True):
        for keep in (False, True):
            made = whole.forward(x, packed, ALPHA, sums=sums, keep=keep)
            kept = full[2:] if keep else (None, None, None)
            assert_same(made, (full.out, full.sums if sums else None, *kept))


def test_a_sample_alone_has_the_bits_it_has_in_a_batch():
    x, packed = drawn((5, 34, 9, 13)), packing.pack(weights_of(block_of(34, CONFIGS["step2"])))
    together = whole.forward(x, packed, ALPHA, sums=True, keep=True)
    for i in range(5):
        alone = whole.forward(x[i : i + 1], packed, ALPHA, sums=True, keep=True)
        assert_same(alone.out, together.out[i : i + 1])
        assert_same(alone.sums, together.sums[:, i : i + 1])
        assert_same(tuple(alone.found), tuple(t[i : i + 1] for t in together.found))
        assert_same(tuple(alone.factors), tuple(t[i : i + 1] for t in together.factors))
        assert_same(alone.maps.fusion, together.maps.fusion[i : i + 1])
        assert_same(alone.maps.cols, together.maps.cols[i : i + 1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 200, 6, 5), (3, 70, 5, 8), (8, 3, 4, 9)], ids=str)
def test_the_number_of_threads_changes_no_bit(size, layout, monkeypatch):
    """With more samples than threads, and pass by pass with fewer."""
    monkeypatch.setattr(cpu, "GRAIN", 1)
    x, packed = drawn(size, layout), packing.pack(weights_of(block_of(size[1], CONFIGS["step2"])))
    found = cpu.profile(x)
    for asked in ({}, {"sums": True}, {"keep": True}, {"sums": True, "keep": True}):
        alone = whole.forward(x, packed, ALPHA, **asked)
        apart = whole.side(found, packed)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            together = whole.forward(x, packed, ALPHA, **asked)
            assert_same(whole.side(found, packed), apart)
            torch.set_num_threads(1)
            assert_same(together, alone)


def test_few_samples_are_made_pass_by_pass(monkeypatch):
    """And many, or few threads, in one call."""
    monkeypatch.setattr(cpu, "GRAIN", 1)
    called, divide = [], cpu._divide

    def noted(entry, *args):
        called.append(entry.__name__)
        divide(entry, *args)

    monkeypatch.setattr(cpu, "_divide", noted)
    x, packed = drawn((2, 8, 4, 9)), packing.pack(weights_of(block_of(8, CONFIGS["step2"])))
    for threads, calls in ((1, ["whole"]), (2, ["whole"]), (3, ["profile", "side", "scale"])):
        torch.set_num_threads(threads)
        called.clear()
        whole.forward(x, packed, ALPHA)
        assert called == [f"coordcbam_{name}" for name in calls]


def test_threads_may_share_the_weights():
    packed = packing.pack(weights_of(block_of(64, CONFIGS["step2"])))
    inputs = [drawn((1, 64, 9 + i, 13)) for i in range(8)]
    alone = [whole.forward(x, packed, ALPHA, keep=True) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = pool.map(lambda x: whole.forward(x, packed, ALPHA, keep=True), inputs)
            assert_same(tuple(found), tuple(alone))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("space", ["lin", "log"])
@pytest.mark.parametrize("size", [(2, 64, 20, 20), (1, 7, 5, 3), (1, 33, 9, 26)], ids=str)
def test_a_fresh_block_of_step_3_is_the_exact_identity(size, space, layout):
    block, x = CoordCBAM(size[1], BlockConfig.step3(space=space)).eval(), drawn(size, layout)
    packed = packing.pack(weights_of(block))
    for alpha in (0.0, 0.1, 1 / 3, ALPHA, 0.9999, 1.0):
        made = whole.forward(x, packed, alpha, sums=True, keep=True)
        assert torch.equal(made.out, x)
        for factor in made.factors:
            assert torch.equal(factor, torch.ones_like(factor))
    for lanes in (1, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "WIDEST", lanes)
            assert torch.equal(whole.forward(x, packed, ALPHA).out, x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["step2", "relu", "sum", "silu", "step3 log"])
def test_what_is_not_finite_in_a_sample_stays_in_it(name, odd, layout):
    block, x = block_of(12, CONFIGS[name]), drawn((3, 12, 9, 13), layout)
    clean = whole.forward(x, packing.pack(weights_of(block)), ALPHA)
    x[1, 4, 3, 2] = odd
    side, exact = weights_of(block), weights_of(copy.deepcopy(block).double())
    made = whole.forward(x, packing.pack(side), ALPHA, keep=True)
    _, factors = attended(algebra.profile(x.double()), exact)
    for found, wanted in zip(made.factors, factors, strict=True):
        assert_close(found, wanted)
    assert made.factors.rows[1].isnan().any()
    assert_close(
        made.out, algebra.scale(x.double(), factors, exact.shape, torch.tensor(ALPHA).double())
    )
    assert_same(made.out[::2], clean.out[::2])


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("act", ["relu", "silu", "hswish"])
def test_a_nan_reaches_where_the_taps_reach(act, dilation):
    """Neither further, over a zero between taps, nor less far, over a tap that is zero."""
    config = STEP2(coord_norm="none", coord_dilation=dilation, coord_act=act)
    block, x = block_of(12, config), drawn((1, 12, 23, 30))
    with torch.no_grad():
        block.coord.h_local_dw.weight.zero_()
        block.coord.h_dilated_dw.weight.zero_()
    found = cpu.profile(x)
    found.row_mean[0, 5, 11] = float("nan")
    found.col_max[0, 2, 0] = float("nan")
    maps, factors = whole.side(found, packing.pack(weights_of(block)))
    rows = {11, 10, 12, 11 - dilation, 11 + dilation}
    cols = {0, 1, dilation}
    for map_, factor, reached in ((maps.rows, factors.rows, rows), (maps.cols, factors.cols, cols)):
        for tensor in (map_.flatten(2), factor):
            assert set(tensor.isnan().all(dim=1)[0].nonzero().flatten().tolist()) == reached
            assert set(tensor.isnan().any(dim=1)[0].nonzero().flatten().tolist()) == reached
    assert not factors.channel.isnan().any()


def test_a_nan_of_a_norms_group_stays_in_it():
    """Until the next layer mixes the groups."""
    block, x = block_of(12, STEP2(coord_act="relu")), drawn((1, 12, 9, 13))
    with torch.no_grad():
        block.coord.shared_bottleneck_refine.weight.copy_(torch.eye(8)[..., None, None])
    block.coord.shared_bottleneck_refine_norm = torch.nn.Identity()
    side = weights_of(block)
    with torch.no_grad():
        side.coord.rows.into[0].weight[3, 2] = float("nan")
        side.coord.rows.head.weight.zero_()
        _, wanted = attended(cpu.profile(x), side)
    _, factors = whole.side(cpu.profile(x), packing.pack(side))
    assert wanted.rows.isnan().all()
    assert_same(factors.rows.isnan(), wanted.rows.isnan())
    assert_same(factors.cols.isnan(), wanted.cols.isnan())


@pytest.mark.parametrize("name", ["step2", "step3", "step3 log", "sum"])
def test_logits_beyond_every_range_close_and_open_gates(name):
    block, x = block_of(8, CONFIGS[name], std=200.0), drawn((2, 8, 9, 13))
    made = whole.forward(x, packing.pack(weights_of(block)), ALPHA, keep=True)
    assert made.out.isfinite().all()
    gates = made.maps.channel
    assert ((gates < 1e-6) | (gates > 1 - 1e-6)).any()
    exact = weights_of(copy.deepcopy(block).double())
    maps, _ = attended(wide(cpu.profile(x)), exact)
    torch.testing.assert_close(gates.double(), maps.channel, rtol=0, atol=2e-3)


def test_the_weights_may_lie_anyhow_and_need_not_outlive_the_packing():
    block, x = block_of(40, CONFIGS["step2"]), drawn((1, 40, 9, 13))
    side = weights_of(block)
    wanted = whole.forward(x, packing.pack(side), ALPHA)

    def turned(linear):
        return Linear(linear.weight.clone().t().contiguous().t(), linear.bias.clone())

    channel = dataclasses.replace(side.channel, fc1=turned(side.channel.fc1))
    assert not channel.fc1.weight.is_contiguous()
    packed = packing.pack(dataclasses.replace(side, channel=channel))
    del side, channel, block
    gc.collect()
    _ = [torch.full((40, 40), float("nan")) for _ in range(50)]
    assert_same(whole.forward(x, packed, ALPHA), wanted)


def test_weights_that_learn_are_only_read():
    block, x = block_of(8, CONFIGS["step2"]), drawn((1, 8, 9, 13))
    side = folded(block.ca, block.coord, block._unit, tensors_of(block.ca, block.coord), merge=True)
    assert side.coord.refine.weight.requires_grad
    made = whole.forward(x.requires_grad_(), packing.pack(side), ALPHA, keep=True)
    assert not made.out.requires_grad
    assert not any(t.requires_grad for t in made.maps)


def test_the_statistics_may_lie_anyhow():
    x, packed = drawn((2, 12, 9, 13)), packing.pack(weights_of(block_of(12, CONFIGS["step2"])))
    found = cpu.profile(x)
    turned = Statistics(
        *(t.t().contiguous().t() if t.dim() == 2 else t.mT.contiguous().mT for t in found)
    )
    assert not turned.row_max.is_contiguous()
    assert_same(whole.side(turned, packed), whole.side(found, packed))


def test_another_number_of_channels_is_refused():
    packed = packing.pack(weights_of(block_of(8, CONFIGS["step2"])))
    with pytest.raises(ValueError, match="x has 9 channels, the weights are for 8"):
        whole.forward(drawn((1, 9, 4, 4)), packed, ALPHA)
    with pytest.raises(ValueError, match="9 channels"):
        whole.side(cpu.profile(drawn((1, 9, 4, 4))), packed)


def changed(part, **fields):
    """The weights of step 2 with some fields of one part in other words."""
    side = weights_of(block_of(8, CONFIGS["step2"]))
    return dataclasses.replace(side, **{part: dataclasses.replace(getattr(side, part), **fields)})


@pytest.mark.parametrize(
    ("part", "fields", "reason"),
    [
        ("coord", {"norm": torch.nn.LayerNorm(4)}, "norm is LayerNorm, not a group norm"),
        ("coord", {"refine_norm": len}, "refine_norm is builtin_function_or_method"),
        ("channel", {"act": "tanh"}, "'tanh' is none of relu, silu, hswish"),
        ("coord", {"act": "tanh"}, "'tanh'"),
        ("channel", {"gate": "relu"}, "'relu' is none of sigmoid"),
        ("channel", {"space": "cube"}, "'cube' is none of gate"),
        ("coord", {"space": "cube"}, "'cube'"),
        ("coord", {"refine": Linear(torch.zeros(8, 8).double(), None)}, "torch.float64"),
        ("channel", {"temperature": torch.ones((), dtype=torch.bfloat16)}, "torch.bfloat16"),
        ("channel", {"fc1": Linear(torch.zeros(4, 8, device="meta"), None)}, "meta"),
    ],
    ids=str,
)
def test_what_it_cannot_run_has_a_reason(part, fields, reason):
    side = changed(part, **fields)
    assert reason in packing.supports(side)
    with pytest.raises(RuntimeError, match="cannot run these side nets"):
        packing.pack(side)


def test_each_axis_and_the_router_are_looked_at():
    bad = Linear(torch.zeros(2, 16).double(), None)
    good = weights_of(block_of(8, CONFIGS["step2"]))
    assert packing.supports(good) is None
    rows = dataclasses.replace(good.coord.rows, taps=good.coord.rows.taps.double())
    cols = dataclasses.replace(good.coord.cols, head=bad)
    norm = dataclasses.replace(good.coord.norm, weight=torch.ones(8).double())
    for side in (
        changed("coord", rows=rows),
        changed("coord", cols=cols),
        changed("coord", norm=norm),
        changed("channel", router=(good.channel.router[0], bad)),
    ):
        assert "torch.float64" in packing.supports(side)


def test_a_training_batch_norm_is_not_for_it():
    block = block_of(8, CONFIGS["silu"])
    assert packing.supports(weights_of(block)) is None
    assert "not a group norm" in packing.supports(weights_of(block.train()))


def test_without_a_library_there_is_a_reason(monkeypatch, tmp_path):
    side = weights_of(block_of(8, CONFIGS["step2"]))
    monkeypatch.setattr(cpu, "_library", lambda: cpu._load(tmp_path))
    assert "not built" in packing.supports(side)


def test_a_library_of_another_version_is_a_reason(monkeypatch):
    library = cpu._load(cpu.Path(cpu.__file__).parent)
    monkeypatch.setattr(packing.ctypes, "sizeof", lambda kind: 8)
    assert "another version" in packing.mismatch.__wrapped__(library)

    class Older:
        def __getattr__(self, name):
            raise AttributeError(f"undefined symbol: {name}")

    assert "undefined symbol" in packing.mismatch.__wrapped__(Older())
