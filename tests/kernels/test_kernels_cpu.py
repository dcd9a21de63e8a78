"""The C kernels: the numbers of the PyTorch twin in float64, in both layouts, on any machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coordcbam.kernels import algebra, cpu
from coordcbam.kernels.passes import Factors, Shape, Statistics

MISSING = cpu.supports(torch.zeros(1, 1, 1, 1))
built = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

INF = float("inf")
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
# Every remainder of a vector and of four rows, one pixel, one channel, more than one unit of NHWC.
SIZES = [
    *((1, 1, 1, 1), (2, 3, 7, 1), (3, 1, 1, 9), (1, 2, 1, 40), (1, 65, 2, 3), (2, 4, 5, 4)),
    *((1, 6, 6, 5), (1, 8, 3, 7), (2, 12, 9, 8), (1, 33, 4, 11), (1, 3, 13, 12), (2, 16, 10, 16)),
    *((1, 31, 11, 19), (2, 64, 20, 20), (1, 130, 5, 23), (1, 40, 14, 40), (1, 5, 7, 33)),
    *((1, 2, 300, 6), (1, 9, 2, 37)),
]
SHAPES = {
    "plain": Shape(1.0, -INF, INF),
    "soft": Shape(0.35, -INF, INF),
    "clamped": Shape(1.0, 0.2, 0.9),
    "soft clamped": Shape(0.35, 0.8, 1.1),
}


def wide(value):
    """The same numbers in float64."""
    return type(value)(*map(wide, value)) if isinstance(value, tuple) else value.double()


def laid_out(x, layout):
    return x.contiguous(memory_format=LAYOUTS[layout])


def drawn(size, layout, *, tied=False):
    """x, the gradient of its output and factors, some channels' negative."""
    batch, channels, height, width = size
    x = torch.randn(size)
    x = (2 * x).round().relu() if tied else x
    factors = Factors(
        channel=3 * torch.rand(batch, channels) - 1,
        rows=1.3 * torch.rand(batch, channels, height),
        cols=1.3 * torch.rand(batch, channels, width),
    )
    return laid_out(x, layout), laid_out(torch.randn(size), layout), factors


def assert_outputs(found, wanted):
    torch.testing.assert_close(found.double(), wanted, rtol=1.3e-6, atol=1e-5, equal_nan=True)


def assert_sums(found, wanted, terms):
    """Within 2e-6 of what the sum's terms come to without their signs."""
    assert (found.double() - wanted).abs().le(2e-6 * terms + 1e-12).all()


def check_profile(x):
    found, wanted = cpu.profile(x), algebra.profile(x)
    for name in ("peak", "row_max", "col_max"):
        torch.testing.assert_close(
            getattr(found, name), getattr(wanted, name), rtol=0, atol=0, equal_nan=True
        )
    exact = algebra.profile(x.double())
    for name in ("mean", "row_mean", "col_mean"):
        assert_outputs(getattr(found, name), getattr(exact, name))
    return found


def check_outputs(x, factors, shape, alpha):
    out, sums = cpu.measure(x, factors, shape, alpha)
    same = cpu.scale(x, factors, shape, alpha)
    assert torch.equal(out, same)
    assert out.stride() == same.stride() == x.stride()
    exact, wanted = algebra.measure(*map(wide, (x, factors)), shape, alpha.double())
    assert_outputs(out, exact)
    magnitude = Factors(factors.channel.abs(), factors.rows, factors.cols)
    _, terms = algebra.measure(*map(wide, (x.abs(), magnitude)), shape, alpha.double())
    assert (sums.double() - wanted).abs().le(1e-6 * terms + 1e-12).all()


def check_factors(grad, x, factors, shape, alpha):
    found, of_alpha = cpu.factor_gradients(grad, x, factors, shape, alpha)
    wanted, of_alpha_wanted = algebra.factor_gradients(
        *map(wide, (grad, x, factors)), shape, alpha.double()
    )
    magnitude = Factors(factors.channel.abs(), factors.rows, factors.cols)
    terms, _ = algebra.factor_gradients(
        *map(wide, (grad.abs(), x.abs(), magnitude)), shape, alpha.double()
    )
    for name in Factors._fields:
        assert_sums(getattr(found, name), getattr(wanted, name), getattr(terms, name))
    product = (grad * x).double().abs().sum(dim=(2, 3))
    assert_sums(of_alpha, of_alpha_wanted, ((2 * factors.channel.abs() + 1) * product).sum())


def check_input(grad, x, factors, shape, alpha, statistics):
    gradients = Statistics(*(torch.randn_like(t) for t in statistics))
    found = cpu.input_gradient(grad, x, factors, shape, alpha, statistics, gradients)
    wanted = algebra.input_gradient(
        *map(wide, (grad, x, factors)), shape, alpha.double(), wide(statistics), wide(gradients)
    )
    assert found.stride() == x.stride()
    scale = wanted.nan_to_num(0, 0, 0).abs().max().item()
    torch.testing.assert_close(
        found.double(), wanted, rtol=1.3e-6, atol=2e-6 * max(scale, 1.0), equal_nan=True
    )


def check_all(x, grad, factors, shape, alpha):
    statistics = check_profile(x)
    check_outputs(x, factors, shape, alpha)
    check_factors(grad, x, factors, shape, alpha)
    check_input(grad, x, factors, shape, alpha, statistics)


@built
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_pass_has_the_twins_numbers(shape, size, layout, tied):
    x, grad, factors = drawn(size, layout, tied=tied)
    check_all(x, grad, factors, shape, torch.tensor(0.7))


@built
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", range(1, 41))
def test_every_width_and_every_number_of_channels(width, layout):
    channels, shape = (2, SHAPES["soft"]) if layout == "NCHW" else (width, SHAPES["soft clamped"])
    x, grad, factors = drawn((1, channels, 5, width), layout, tied=width % 2 == 0)
    check_all(x, grad, factors, shape, torch.tensor(0.7))


@built
@pytest.mark.parametrize("widest", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_machines_with_narrower_vectors(widest, layout, shape, monkeypatch):
    monkeypatch.setattr(cpu, "WIDEST", widest)
    for size in [(2, 65, 7, 9), (1, 12, 6, 23), (1, 64, 20, 20)]:
        x, grad, factors = drawn(size, layout, tied=size[3] == 9)
        check_all(x, grad, factors, shape, torch.tensor(0.7))


@built
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_of_alpha(alpha, layout):
    x, grad, factors = drawn((2, 12, 7, 11), layout)
    for shape in SHAPES.values():
        check_all(x, grad, factors, shape, torch.tensor(alpha))
    if alpha == 0.0:
        assert torch.equal(cpu.scale(x, factors, SHAPES["soft"], torch.tensor(0.0)), x)


@built
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_factor_at_an_end_of_the_clamp_keeps_its_gradient(layout):
    """As torch.clamp: k of exactly ``low`` or ``high`` learns, one beyond it does not."""
    x = laid_out(torch.ones(1, 8, 3, 8), layout)
    rows, cols = torch.tensor([0.25, 0.5, 1.0]).expand(1, 8, 3), torch.ones(1, 8, 8)
    factors, one = Factors(torch.ones(1, 8), rows.contiguous(), cols), torch.tensor(1.0)
    for low, high, learning in [(0.5, 1.0, [0, 8, 8]), (0.25, 0.5, [8, 8, 0])]:
        found, _ = cpu.factor_gradients(x, x, factors, Shape(1.0, low, high), one)
        assert found.rows[0, 3].tolist() == learning


@built
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("odd", [float("nan"), INF, -INF])
@pytest.mark.parametrize("size", [(1, 9, 5, 11), (2, 70, 4, 20), (1, 2, 3, 2)], ids=str)
def test_what_is_not_finite_comes_through_as_in_torch(size, odd, layout):
    x, grad, factors = drawn(size, layout)
    for index in range(1, x.numel(), 41):
        x[tuple(i.item() for i in torch.unravel_index(torch.tensor(index), size))] = odd
    statistics = check_profile(x)
    for shape in SHAPES.values():
        alpha = torch.tensor(0.7)
        exact = algebra.scale(*map(wide, (x, factors)), shape, alpha.double())
        assert_outputs(cpu.scale(x, factors, shape, alpha), exact)
        check_input(grad, x, factors, shape, alpha, statistics)


@built
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", [(0, 0), (2, 3), (4, 10)])
def test_one_nan_anywhere_reaches_its_row_its_column_and_the_peak(place, layout):
    x, *_ = drawn((1, 9, 5, 11), layout)
    x[0, 4, place[0], place[1]] = float("nan")
    found = check_profile(x)
    assert (
        found.row_max.isnan().sum() == found.col_max.isnan().sum() == found.peak.isnan().sum() == 1
    )


@built
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_costs_no_accuracy(layout):
    x, _, factors = drawn((2, 64, 80, 80), layout)
    check_profile(x + 100)
    check_outputs(x + 100, factors, SHAPES["soft"], torch.tensor(0.7))


def everything(x, grad, factors, shape):
    """The results of every pass, as one list of tensors."""
    alpha, statistics = torch.tensor(0.7), cpu.profile(x)
    gradients = Statistics(*(t + 1 for t in statistics))
    of_factors, of_alpha = cpu.factor_gradients(grad, x, factors, shape, alpha)
    dx = cpu.input_gradient(grad, x, factors, shape, alpha, statistics, gradients)
    measured = cpu.measure(x, factors, shape, alpha)
    return [*statistics, cpu.scale(x, factors, shape, alpha), *measured, *of_factors, of_alpha, dx]


@built
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "size", [(1, 65, 9, 7), (1, 200, 6, 5), (3, 70, 5, 8), (5, 3, 4, 9)], ids=str
)
def test_the_number_of_threads_changes_no_bit(size, layout, monkeypatch):
    monkeypatch.setattr(cpu, "GRAIN", 1)
    x, grad, factors = drawn(size, layout, tied=True)
    for shape in (SHAPES["soft"], SHAPES["soft clamped"]):
        alone = everything(x, grad, factors, shape)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            together = everything(x, grad, factors, shape)
            torch.set_num_threads(1)
            assert all(map(torch.equal, alone, together))


@built
def test_small_work_starts_no_thread(monkeypatch):
    monkeypatch.setattr(cpu, "_workers", lambda count: pytest.fail("started a thread"))
    torch.set_num_threads(2)
    cpu.profile(torch.randn(1, 64, 8, 8))


@built
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_in_another_layout(layout):
    """Autograd hands over what it has: the other layout, expanded scalars, transposed tensors."""
    x, grad, factors = drawn((2, 12, 6, 9), layout)
    other = laid_out(grad, next(name for name in LAYOUTS if name != layout))
    turned = Factors(factors.channel, *(t.mT.contiguous().mT for t in factors[1:]))
    shape = SHAPES["soft"]
    assert all(
        map(torch.equal, everything(x, grad, factors, shape), everything(x, other, turned, shape))
    )
    ones = torch.ones(()).expand_as(x)
    check_factors(ones, x, factors, shape, torch.tensor(0.7))
    check_input(ones, x, factors, shape, torch.tensor(0.7), cpu.profile(x))


@built
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own(child_environment):
    """A data loader forks after the model has run; its child must not wait for absent threads."""
    code = """
import os, signal, torch
from coordcbam.kernels import cpu
torch.set_num_threads(2)
x = torch.randn(4, 64, 40, 40)
before = cpu.profile(x)
assert cpu._pool is not None
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if torch.equal(cpu.profile(x).row_max, before.row_max) else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    subprocess.run(command, env=child_environment, check=True, timeout=120)


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.zeros(1, 2, 3, 4, dtype=torch.float64), "torch.float64"),
        (torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16), "torch.bfloat16"),
        (torch.zeros(1, 2, 3, 4, device="meta"), "meta"),
        (torch.zeros(2, 3, 4), "3 dimensions"),
        (torch.zeros(1, 2, 3, 4).to_sparse(), "sparse"),
        (torch.zeros(0, 2, 3, 4), "empty"),
    ],
    ids=["double", "bfloat16", "meta", "rank", "sparse", "empty"],
)
def test_what_it_cannot_take_has_a_reason(x, reason):
    assert reason in cpu.supports(x)


@pytest.fixture
def without_library(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "_library", lambda: cpu._load(tmp_path))
    return tmp_path


def test_without_a_library_there_is_a_reason(without_library):
    x = torch.zeros(1, 2, 3, 4)
    assert "not built" in cpu.supports(x)
    with pytest.raises(RuntimeError, match=r"cannot run.*not built"):
        cpu.profile(x)


def test_a_library_that_does_not_load_is_a_reason(without_library):
    suffix = cpu.importlib.machinery.EXTENSION_SUFFIXES[0]
    (without_library / f"_cpu{suffix}").write_bytes(b"no library")
    assert "does not load" in cpu.supports(torch.zeros(1, 2, 3, 4))


@built
def test_a_library_of_another_version_is_a_reason(monkeypatch):
    """An editable install keeps the old library when the sources move on."""
    monkeypatch.setattr(cpu.ctypes, "sizeof", lambda kind: 8)
    assert "another version" in cpu._load(Path(cpu.__file__).parent)


@built
@pytest.mark.parametrize("entry", ["profile", "whole", "tell", "commit"])
def test_a_library_without_an_entry_is_of_another_version(entry, monkeypatch):
    whole = cpu.ctypes.CDLL

    class Older:
        def __init__(self, path):
            self.library = whole(path)

        def __getattr__(self, name):
            if name == f"coordcbam_{entry}":
                raise AttributeError(name)
            return getattr(self.library, name)

    monkeypatch.setattr(cpu.ctypes, "CDLL", Older)
    assert "another version" in cpu._load(Path(cpu.__file__).parent)


@pytest.mark.skipif(shutil.which("false") is None, reason="no `false` here")
def test_a_machine_whose_compiler_fails_still_builds_the_package(tmp_path):
    pytest.importorskip("setuptools")
    root = Path(__file__).parents[2]
    where = [f"--build-lib={tmp_path / 'lib'}", f"--build-temp={tmp_path / 'temp'}"]
    broken = {**os.environ, **dict.fromkeys(("CC", "CXX", "LDSHARED"), shutil.which("false"))}
    command = [sys.executable, "setup.py", "build_ext", *where]
    done = subprocess.run(
        command, cwd=root, env=broken, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "failed" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("_cpu*"))
