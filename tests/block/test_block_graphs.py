"""Compilers and exporters: one graph in every mode, and the same numbers out of it."""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from coordcbam import BlockConfig, CoordCBAM
from coordcbam.notebook import step1, step2

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CONFIGS = {
    "step1": BlockConfig.step1(),
    "step2": BlockConfig.step2(),
    "all on": BlockConfig.from_notebook(
        learnable_temperature=True,
        learnable_alpha=True,
        coord_use_spatial_gate=True,
        coord_norm="bn",
        ca_fusion="sum",
        rescue_mode="alpha_floor",
    ),
    "no residual": BlockConfig.from_notebook(residual=False, ca_gate="hardsigmoid"),
}
MODES = {"train": (True, False), "eval": (False, False), "monitor": (True, True)}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    """No graph of another test, and no determinism flag for the compiler to stumble over."""
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(False)
    yield
    torch._dynamo.reset()


def twins(config):
    one, other = CoordCBAM(8, config), CoordCBAM(8, config)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    other.load_state_dict(one.state_dict())
    return one, other


def near(got, want):
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("config", "mode", "traced"),
    [
        *(("step2", mode, traced) for mode in MODES for traced in (False, True)),
        ("step1", "eval", False),
        ("step1", "monitor", True),
        ("all on", "monitor", False),
        ("no residual", "monitor", True),
    ],
)
def test_one_graph_with_the_eager_numbers(config, mode, traced):
    eager, compiled = twins(CONFIGS[config])
    for block in (eager, compiled):
        block.train(MODES[mode][0]).monitor = MODES[mode][1]
    run = compiled.trace if traced else compiled.forward
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(run, backend=counter, fullgraph=True)
    for _ in range(2):
        x = torch.randn(2, 8, 6, 5)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        want = eager.trace(a) if traced else eager(a)
        got = run(b)
        near(got, want)
        (got.out if traced else got).square().sum().backward()
        (want.out if traced else want).square().sum().backward()
        near(b.grad, a.grad)
    assert counter.frame_count == 1
    for (name, one), other in zip(eager.named_buffers(), compiled.buffers(), strict=True):
        near(other, one)
        assert one.isfinite().all() or name == "stats"
    for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++")
def test_inductor():
    """The default backend; in eval without gradients, where its C++ takes seconds, not a minute."""
    block, _ = twins(BlockConfig.step2())
    block.eval()
    x = torch.randn(2, 8, 6, 5)
    with torch.no_grad():
        near(torch.compile(block, fullgraph=True)(x), block(x))


@pytest.mark.parametrize("module", [step1, step2])
def test_the_notebook_classes_compile_without_maps(module):
    block = module.CBAMChannelPlusCoord(8).eval()
    x = torch.randn(2, 8, 6, 5)
    near(torch.compile(block, backend="aot_eager", fullgraph=True)(x), block(x))


# GroupNorm's own check of its input compares sizes, about which the tracer warns.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("config", CONFIGS)
def test_jit_trace_at_another_size(config):
    block, _ = twins(CONFIGS[config])
    block.eval()
    traced = torch.jit.trace(block, torch.randn(1, 8, 6, 5))
    for shape in ((1, 8, 6, 5), (3, 8, 9, 4)):
        x = torch.randn(shape)
        near(traced(x), block(x))


@pytest.mark.parametrize("config", CONFIGS)
def test_export_with_dynamic_sizes(config):
    block, _ = twins(CONFIGS[config])
    block.eval()
    dims = {i: torch.export.Dim(name, min=2) for i, name in ((0, "b"), (2, "h"), (3, "w"))}
    program = torch.export.export(block, (torch.randn(2, 8, 6, 5),), dynamic_shapes=(dims,))
    x = torch.randn(3, 8, 9, 4)
    near(program.module()(x), block(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_onnx_runs_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    block, _ = twins(BlockConfig.from_notebook(coord_use_spatial_gate=True))
    block.eval()
    path = tmp_path / "block.onnx"
    torch.onnx.export(
        block,
        (torch.randn(1, 8, 6, 5),),
        path,
        dynamo=False,
        input_names=["x"],
        output_names=["out"],
        dynamic_axes={"x": {0: "b", 2: "h", 3: "w"}},
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 8, 6, 5), (3, 8, 9, 4)):
        x = torch.randn(shape)
        (out,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), block(x), rtol=1e-5, atol=1e-5)
