"""The Triton passes where there is no GPU: interpreted against the twin, and compiled unrun."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coordcbam.kernels import triton_passes
from coordcbam.kernels.triton_passes import Plan, supports

HERE = Path(__file__).parent
MAP = torch.zeros(2, 3, 4, 5)
installed = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton comes with torch for CUDA only"
)


def told(program, environment, folder, *, interpret):
    """The JSON that a program beside this test prints, run in a fresh interpreter."""
    changed = {"TRITON_INTERPRET": str(int(interpret)), "TRITON_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / program)],
        env={**environment, **changed},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@installed
@pytest.mark.long
def test_every_pass_is_the_twins(tmp_path, child_environment):
    """A user on a GPU trains another network than a user on a CPU, and neither sees it."""
    found = told("_triton_cases.py", child_environment, tmp_path, interpret=True)
    assert found["failed"] == {}
    assert found["cases"] == 84
    assert len(found["identities"]) == 16
    assert all(found["identities"])


@pytest.mark.long
@installed
def test_every_pass_compiles_for_a_gpu(tmp_path, child_environment):
    """The interpreter takes programs that the compiler refuses; a user meets those on the GPU."""
    if not (importlib.util.find_spec("triton.backends.nvidia")):
        pytest.skip("this build of Triton has no compiler for NVIDIA")
    found = told("_triton_compile.py", child_environment, tmp_path, interpret=False)
    assert len(found) == 15
    assert all(size > 0 for size in found.values()), found


def test_what_is_not_supported_says_why(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_passes, "_INSTALLED", True)
    assert supports(MAP) is None
    assert supports(MAP.to(memory_format=torch.channels_last)) is None
    assert supports(MAP.bfloat16()) is None
    assert supports(MAP.half()) is None
    assert supports(MAP.double()) == "x is float64, not float32, bfloat16 or float16"
    assert supports(MAP[:0]) == "x is empty"
    large = torch.empty(1, 1, 2**16, 2**16, device="meta")
    assert supports(large) == "x has 65536 x 65536 positions, more than 2147483647"
    monkeypatch.setattr(triton_passes, "_INSTALLED", False)
    assert supports(MAP) == "triton is not installed"
    monkeypatch.delenv("TRITON_INTERPRET")
    assert supports(MAP) == "x is on cpu, not on CUDA"


def test_an_old_gpu_is_named(monkeypatch):
    monkeypatch.setattr(triton_passes, "_INSTALLED", True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    for capability, word in (((7, 5), "Old GPU is below compute capability 8.0"), ((8, 0), None)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert triton_passes._out_of_reach(torch.device("cuda", 0)) == word


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", triton_passes.DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (8, 64, 80, 80), (8, 512, 20, 20), (1, 3, 7, 1300), (2, 5, 4000, 3)]
)
def test_a_plan_covers_the_map_once(shape, dtype, layout):
    """A tile too few leaves part of the map unread; one too large does not fit a program."""
    x = torch.empty(shape, dtype=dtype, device="meta").to(memory_format=layout)
    plan = Plan.of(x)
    BC, BH, BW = plan.tile
    blocks = plan.programs // (shape[0] * plan.stripes)
    for size, count, block in zip(
        shape[1:], (blocks, plan.steps, plan.stripes), plan.tile, strict=True
    ):
        assert (count - 1) * block < size <= count * block
        assert block & (block - 1) == 0
    assert BC * BH * BW <= triton_passes.ELEMENTS


def test_importing_the_passes_leaves_triton_alone(child_environment):
    """``import triton`` costs a second, and fails where there is none."""
    code = "import sys, coordcbam.kernels.triton_passes; print('triton' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
