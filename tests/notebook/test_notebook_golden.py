"""The notebook's own numbers: 40 files replayed, at float64 to 1e-10 and at float32."""

import copy
import math

import pytest
import torch

from _support.golden import (
    NAMES,
    assert_near,
    assert_same_buffers,
    load,
    notebook_block,
    replay,
)
from coordcbam import BlockConfig, CoordCBAM, Stats
from coordcbam.kernels import use


@pytest.fixture(params=NAMES)
def case(request):
    return load(request.param)


@pytest.fixture(params=["plain", "auto"], autouse=True)
def _kernel(request):
    """The oracle, and what a user gets: in float64 PyTorch's fused form, in float32 C."""
    use(request.param)
    yield
    use("auto")


def test_there_are_forty_cases():
    assert [sum(name.startswith(f"step{step}_") for name in NAMES) for step in (1, 2)] == [20, 20]


def as_tuple(case, result):
    """(out, ca_map, fusion_w, coord_stats, monitor_stats), None where the call gives no such."""
    if not case.kwargs["return_maps"]:
        return result, None, None, None, None
    assert len(result) == (4 if case.step == 1 else 5)
    return (*result, None)[:5]


def check_gradients(block, case, x, out):
    (out * case.tensors["g"].to(out.dtype)).sum().backward()
    assert_near(x.grad, case.tensors["gx"], what="input gradient")
    expected = case.gradients()
    assert {n for n, p in block.named_parameters() if p.grad is not None} == expected.keys()
    for name, parameter in block.named_parameters():
        assert_near(parameter.grad, expected.get(name), what=name)


def check_masks(got, want, what):
    for mask, numbers in want.items():
        for key, number in numbers.items():
            # The notebook's std of one element is NaN; ours is 0.
            expected = 0.0 if math.isnan(number) else number
            assert_near(got[mask][key], expected, what=f"{what}.{mask}.{key}")


def test_notebook_class_gives_the_notebooks_numbers(case):
    block = notebook_block(case)
    for i, x, result in replay(block, case, lambda m, x: m(x)):
        out, ca_map, fusion, coord, monitor = as_tuple(case, result)
        assert_near(out, case.get("out", i), what=f"out.{i}")
        if case.kwargs["return_maps"]:
            assert_near(ca_map, case.get("ca", i), what=f"ca.{i}")
            assert_near(fusion, case.get("fw", i), what=f"fw.{i}")
            check_masks(coord, case.coord[i], f"coord.{i}")
        if case.step == 2:
            assert_near(block.r_ema, case.get("r_ema_after", i), what=f"r_ema.{i}")
        wanted = case.monitor[i]
        assert (monitor is None) == (wanted is None)
        if wanted is not None:
            assert list(monitor) == list(wanted)
            for key, number in wanted.items():
                if isinstance(number, str):
                    assert monitor[key] == number
                else:
                    assert_near(monitor[key], number, what=f"monitor.{i}.{key}")
    check_gradients(block, case, x, out)


def coordcbam(case, dtype=torch.float64):
    config = BlockConfig.from_notebook(case.step, **case.options)
    block = CoordCBAM(case.kwargs["channels"], config).to(dtype)
    block.load_state_dict(case.weights(), strict=True)
    return block


@pytest.mark.parametrize("traced", [False, True], ids=["forward", "trace"])
def test_coordcbam_gives_the_same_numbers(case, traced):
    block = coordcbam(case)
    call = (lambda m, x: m.trace(x)) if traced else (lambda m, x: m(x))
    for i, x, result in replay(block, case, call):
        out = result.out if traced else result
        assert_near(out, case.get("out", i), what=f"out.{i}")
        if traced and case.get("ca", i) is not None:
            assert_near(result.channel.gate, case.get("ca", i), what=f"ca.{i}")
            assert_near(result.channel.fusion, case.get("fw", i), what=f"fw.{i}")
        if case.step == 2:
            assert_near(block.r_ema, case.get("r_ema_after", i), what=f"r_ema.{i}")
        if case.monitor[i] is not None:
            for key, number in case.monitor[i].items():
                if not isinstance(number, str):
                    assert_near(getattr(last_stats(block), key), number, what=f"stats.{i}.{key}")
        if traced and case.coord[i] is not None:
            for mask in ("a_h", "a_w"):
                for key, number in case.coord[i][mask].items():
                    expected = 0.0 if math.isnan(number) else number
                    assert_near(
                        getattr(result.stats, f"{mask}_{key}"), expected, what=f"{mask}_{key}"
                    )
    check_gradients(block, case, x, out)


def last_stats(block):
    return Stats(*block.stats.unbind())


def test_with_and_without_maps_are_one_function(case):
    """Same output bit for bit and same buffers, whether maps are asked for or not."""
    plain, mapped = notebook_block(case, return_maps=False), notebook_block(case, return_maps=True)
    traced = coordcbam(case)
    for mode in case.calls:
        x = torch.randn(3, case.kwargs["channels"], 5, 4, dtype=torch.float64)
        results = []
        for block, call in ((plain, plain), (mapped, mapped), (traced, traced.trace)):
            block.train(mode["train"])
            results.append(call(x))
        assert isinstance(results[0], torch.Tensor)
        assert torch.equal(results[0], results[1][0])
        assert torch.equal(results[0], results[2].out)
        assert_same_buffers(plain, mapped)
        if case.step == 2:
            assert torch.equal(plain.r_ema, traced.r_ema)
        assert torch.equal(plain.stats.nan_to_num(nan=-9), mapped.stats.nan_to_num(nan=-9))
        assert torch.equal(plain.stats.nan_to_num(nan=-9), traced.stats.nan_to_num(nan=-9))


@pytest.mark.parametrize("_kernel", ["plain", "algebra", "auto"], indirect=True)
def test_float32_stays_near_the_float64_numbers(case):
    """Outputs, maps and r_ema within PyTorch's float32 tolerance; gradients, too, but for sums."""
    block = coordcbam(case, torch.float32)
    for i, x, result in replay(block, case, lambda m, x: m.trace(x), torch.float32):
        pairs = [
            ("out", result.out, case.get("out", i)),
            ("ca", result.channel.gate, case.get("ca", i)),
            ("fw", result.channel.fusion, case.get("fw", i)),
        ]
        if case.step == 2:
            pairs.append(("r_ema", block.r_ema, case.get("r_ema_after", i)))
        for what, got, want in pairs:
            if want is not None:
                torch.testing.assert_close(
                    got.double(),
                    want,
                    rtol=1.3e-6,
                    atol=1e-5,
                    msg=lambda m, w=what: f"{w}.{i}: {m}",
                )
    (result.out * case.tensors["g"].float()).sum().backward()
    wanted = {"x": case.tensors["gx"], **case.gradients()}
    found = {n: p.grad for n, p in [("x", x), *block.named_parameters()] if p.grad is not None}
    assert found.keys() == wanted.keys()
    largest = max(exact.abs().max() for exact in wanted.values())
    for name, exact in wanted.items():  # a router's may be 0 but for rounding
        scale = torch.maximum(exact.abs().max(), 1e-2 * largest)
        assert (found[name].double() - exact).abs().max() < 3e-4 * scale, name


@pytest.mark.parametrize("name", ["step1_004", "step2_002", "step2_012"])
def test_a_copy_replays_alike(name):
    """deepcopy in the middle of a run goes on with the same numbers."""
    case = load(name)
    block = notebook_block(case, return_maps=False).train()
    x = case.get("x", 0)
    block(x)
    twin = copy.deepcopy(block)
    assert torch.equal(block(x), twin(x))
    assert_same_buffers(block, twin)
