"""The gates of a block on one map, against blocks built by hand and against its own output."""

import copy
import math

import pytest
import torch
from torch import nn

from coordcbam import BlockConfig, CoordCBAM
from coordcbam.pictures.gates import gates_of, measured

CONFIGS = {
    "step1": BlockConfig.step1(),
    "step2": BlockConfig.step2(),
    "step3": BlockConfig.step3(),
    "spatial": BlockConfig.from_notebook(step=2, coord_use_spatial_gate=True),
    "no residual": BlockConfig.from_notebook(step=2, residual=False),
}


def shaken(config):
    block = CoordCBAM(8, config)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    return block.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_gain_is_out_over_x(name):
    block, x = shaken(CONFIGS[name]), torch.rand(1, 8, 6, 9) + 0.5
    with torch.no_grad():
        ratio = (block(x) / x)[0].double()
    found = gates_of(block, x)
    assert torch.allclose(found.gain, ratio.mean(dim=0), atol=1e-5)
    assert ratio.std() > 0.003  # there is something to find
    assert found.gain.dtype == torch.float64
    assert found.note == ""


def test_the_rescue_is_in_the_gain():
    block, x = shaken(BlockConfig.step3()), torch.rand(1, 8, 6, 9) + 0.5
    free = gates_of(block, x).gain
    block.r_ema.fill_(0.2)
    held = gates_of(block, x).gain
    with torch.no_grad():
        assert torch.allclose(held, (block(x) / x)[0].double().mean(dim=0), atol=1e-5)
    assert not torch.allclose(held, free, atol=1e-3)


def test_a_bypassed_block_has_a_gain_of_one_and_its_gates():
    block, x = shaken(BlockConfig.step2()), torch.rand(1, 8, 4, 4)
    gates = gates_of(block, x)
    block.bypassed = True
    assert gates_of(block, x).gain.eq(1).all()
    assert torch.equal(gates_of(block, x).rows, gates.rows)


def known_gates(monkeypatch):
    """A block of step 2's arithmetic with gates that are set by hand: alpha 0.5, beta 0.5."""
    block = CoordCBAM(2, BlockConfig.step1()).eval()
    trace = block.trace(torch.ones(1, 2, 2, 3))
    maps = trace.channel._replace(gate=torch.tensor([0.5, 1.0]).view(1, 2, 1, 1))
    rows = torch.tensor([[1.0, 0.5], [1.0, 0.0]]).view(1, 2, 2, 1)
    cols = torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]).view(1, 2, 1, 3)
    set_by_hand = trace._replace(channel=maps, coord=trace.coord._replace(rows=rows, cols=cols))
    monkeypatch.setattr(block, "trace", lambda x: set_by_hand)
    monkeypatch.setattr(block, "alpha_eff", lambda: torch.tensor(0.5))
    monkeypatch.setattr(type(block.ca), "scale", lambda self, gate: gate)

    class Made:
        beta, clamp, spatial = 0.5, (0.6, 1.6), None

    Made.rows, Made.cols = rows, cols
    monkeypatch.setattr(type(block.coord), "gain", lambda self, scaled, rows, cols: Made)
    return block


def test_known_gates_give_known_numbers(monkeypatch):
    found = gates_of(known_gates(monkeypatch), torch.ones(1, 2, 2, 3))
    assert found.rows.tolist() == [1.0, 0.25]
    assert found.columns.tolist() == [1.0, 0.75, 0.5]
    assert found.channels.tolist() == [0.5, 1.0]
    # Channel 0: k = clamp(1 + 0.5 * (rows * cols - 1)) = 1 .75 .6 | .75 .625 .6, times 0.5.
    # Channel 1: k = 1 1 1 | .6 .6 .6. m = 1 + 0.5 * (s * k - 1), then the mean of both.
    first = torch.tensor([[0.75, 0.6875, 0.65], [0.6875, 0.65625, 0.65]])
    second = torch.tensor([[1.0, 1.0, 1.0], [0.8, 0.8, 0.8]])
    assert torch.allclose(found.gain.float(), (first + second) / 2, atol=1e-7)


def test_the_unit_of_a_calibrated_block_is_in_its_channel_gates():
    block, x = shaken(BlockConfig.step2()), torch.rand(1, 8, 4, 4)
    other = copy.deepcopy(block)
    other._unit = 0.5  # before its first forward, which settles its weights
    plain, halved = gates_of(block, x), gates_of(other, x)
    assert torch.allclose(halved.channels, plain.channels / 0.5)
    with torch.no_grad():
        ratio = (other(x) / x)[0].double().mean(dim=0)
    assert torch.allclose(halved.gain, ratio, atol=1e-5)


def test_what_is_measured_of_any_block():
    x = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 1.0]]]])
    gain = torch.tensor([[[[0.5, 1.0], [9.0, 2.0]], [[1.0, 7.0], [9.0, 1.0]]]])
    found = measured(x, x * gain)
    # Position (0, 0): (0.5 * 1 + 1.0 * 9) / (1 + 9).
    assert found.gain[0].tolist() == pytest.approx([0.95, 1.0])
    assert math.isnan(found.gain[1, 0])
    assert found.gain[1, 1] == 1.5
    assert found.rows.tolist() == pytest.approx([(0.5 + 9 + 4) / 14, 1.5])
    assert found.columns.tolist() == pytest.approx([0.95, (4 + 2 + 1) / 6])
    assert found.channels.tolist() == pytest.approx([(0.5 + 4 + 2) / 6, (9 + 1) / 10])
    assert "<x, out> / <x, x>" in found.note
