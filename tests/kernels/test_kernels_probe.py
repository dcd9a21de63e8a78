"""A write that PyTorch does not count is seen by a few numbers."""

import pytest
import torch

from coordcbam.kernels import cpu
from coordcbam.kernels.probe import Probe, probes

MISSING = cpu.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t.data.mul_(2.0),
        lambda t: t.data.copy_(torch.randn(t.shape)),
        lambda t: t.data.add_(1e-6),
        lambda t: t.data.fill_(float("nan")),
        lambda t: t.data.view(-1)[:1].add_(1.0),
        lambda t: t.data.view(-1)[-1:].add_(1.0),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (2,), (5, 3, 1, 1), (64, 33)])
def test_a_write_through_data_is_seen(shape, write):
    tensors = [torch.randn(7), torch.randn(shape), torch.randn(3)]
    probe, version = Probe(tensors), tensors[1]._version
    assert probe.same()
    write(tensors[1])
    assert tensors[1]._version == version  # which is why there are probes
    assert not probe.same()
    probe.look()
    assert probe.same()


def test_nan_is_the_same_as_itself():
    assert Probe([torch.full((4,), float("nan"))]).same()


def test_memory_of_a_tensor_that_is_gone_is_still_there():
    tensor = torch.ones(1000)
    probe = Probe([tensor])
    tensor.data = torch.zeros(1000)
    assert probe.same()
    assert probe.pointers != [tensor.data_ptr()]


def test_a_layout_with_other_steps_is_looked_at_within_itself():
    tensor = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    probe = Probe([tensor])
    tensor.data.add_(1.0)
    assert not probe.same()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(2, dtype=torch.float64), "float64"),
        (torch.zeros(0), "0 numbers"),
        (torch.zeros(2, device="meta"), "on meta"),
    ],
)
def test_what_cannot_be_looked_at(tensor, reason):
    assert reason in probes([torch.zeros(1), tensor])
    assert probes([torch.zeros(1)]) is None
