"""Which kernel is chosen, by whom, and what is said where it cannot be."""

import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

from coordcbam import BlockConfig, CoordCBAM
from coordcbam._support.errors import UsageError
from coordcbam.kernels import KERNELS, attend, chosen, cpu, kernel_for, table, use

built = pytest.mark.skipif(cpu.missing() is not None, reason=str(cpu.missing()))


def kernel_of(block, x=None):
    kernel, reason = kernel_for(torch.randn(1, 8, 4, 4) if x is None else x, block.side)
    return kernel.name, reason


@built
def test_the_device_s_own_kernel_is_chosen():
    assert kernel_of(CoordCBAM(8)) == ("cpu", None)


@pytest.mark.parametrize(
    ("block", "x", "reason"),
    [
        (CoordCBAM(8).double(), torch.randn(1, 8, 4, 4).double(), "float64, not torch.float32"),
        (CoordCBAM(8), torch.randn(0, 8, 4, 4), "empty"),
        (CoordCBAM(8).to("meta"), torch.randn(1, 8, 4, 4, device="meta"), "no kernels of its own"),
        (CoordCBAM(8, BlockConfig.step3().replace(coord_use_spatial_gate=True)), None, "spatial"),
        (CoordCBAM(8, BlockConfig.from_notebook(beta_ca=1.5)), None, "may be negative"),
    ],
)
def test_otherwise_pytorch_does_it_for_a_reason(block, x, reason):
    name, said = kernel_of(block, x)
    assert name == "algebra"
    assert reason in said


def test_weights_that_only_autocast_brings_together_with_x():
    block, x = CoordCBAM(8).bfloat16().eval(), torch.randn(1, 8, 4, 4)
    assert kernel_of(block, x) == ("algebra", "the weights are torch.bfloat16, not torch.float32")
    with torch.autocast("cpu"):
        assert block(x).shape == x.shape


def test_a_layer_that_does_more_than_its_weights_is_called():
    """A hook, or another module in its place, must not be passed by."""
    block, seen = CoordCBAM(8), []
    block.coord.h_channel_mixer.register_forward_hook(lambda *_: seen.append(1))
    assert kernel_of(block)[0] == "plain"
    block(torch.randn(1, 8, 4, 4))
    assert seen == [1]

    class Lora(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + 1.0

    other = CoordCBAM(8)
    other.coord.h_channel_mixer = Lora(8, 8, 1)
    assert kernel_of(other) == ("plain", "a layer inside the block is a Lora")


def test_a_fall_back_is_logged_once(caplog):
    table._log_once.cache_clear()
    block, x = CoordCBAM(8).double(), torch.randn(1, 8, 4, 4).double()
    with caplog.at_level(logging.INFO, logger="coordcbam"):
        block(x)
        block(x)
    assert len(caplog.messages) == 1
    assert "'algebra'" in caplog.text
    assert "float64" in caplog.text


def test_a_choice_by_name_is_kept_or_refused():
    x = torch.randn(2, 8, 6, 5)
    block = CoordCBAM(8)
    for name in ("plain", "algebra"):
        use(name)
        assert kernel_of(block)[0] == chosen() == name
        torch.testing.assert_close(block(x), x)
    use("auto")


@built
def test_what_was_chosen_by_name_never_gives_way_in_silence():
    use("cpu")
    with pytest.raises(UsageError, match=r"kernel 'cpu': x is torch.float64.*choose 'auto'"):
        CoordCBAM(8).double()(torch.randn(1, 8, 4, 4).double())


def test_a_kernel_this_machine_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(table.cpu, "_library", lambda: "the library is not built")
    with pytest.raises(UsageError, match="kernel 'cpu' cannot run here: the library is not built"):
        use("cpu")
    assert kernel_of(CoordCBAM(8)) == ("algebra", "the library is not built")


def test_an_unknown_kernel_names_the_known():
    with pytest.raises(UsageError, match="kernel 'fast': expected one of"):
        use("fast")
    assert chosen() == "auto"


def test_the_environment_chooses(child_environment):
    code = "from coordcbam.kernels import chosen; print(chosen())"
    for name, status, word in (
        ("plain", 0, "plain"),
        ("fast", 1, "kernel 'fast': expected one of"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**child_environment, "COORDCBAM_KERNEL": name},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert word in done.stdout + done.stderr


def test_what_was_looked_at_needs_no_mix():
    x = torch.randn(2, 8, 6, 5)
    block = CoordCBAM(8)
    for name in ("plain", "algebra", "auto"):
        use(name)
        maps, factors = attend(x, block.side).looked()
        assert maps.rows.shape == (2, 8, 6, 1)
        assert [tuple(t.shape) for t in factors] == [(2, 8), (2, 8, 6), (2, 8, 5)]
    assert set(KERNELS) == {"plain", "algebra", "cpu", "triton"}
