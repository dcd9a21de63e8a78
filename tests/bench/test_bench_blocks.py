"""Inference and training: everyone is run, in its kernel, with gradients made anew."""

import pytest
import torch
from torch import nn

from coordcbam import kernels
from coordcbam.bench import Case, Contender, Length, inference, training
from coordcbam.bench.blocks import copy_of, step_of, without_gradients


@pytest.mark.parametrize("way", [inference, training])
@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
def test_a_row_for_each_and_for_the_copy(
    way: object, layout: str, few: list[Contender], short: Length
) -> None:
    before = kernels.chosen()
    rows = way(Case(size=(2, 8, 6, 5), layout=layout), few, short)
    assert [row.contender for row in rows] == ["copy_", *(each.name for each in few)]
    assert [row.kernel for row in rows] == [None, "algebra", "plain", None]
    assert {(row.mode, row.shape, row.layout) for row in rows} == {
        (way.__name__, "2x8x6x5", layout)
    }
    assert rows[0].ratio_to_copy == 1.0
    assert all(row.times.p20 <= row.times.p50 <= row.times.p80 for row in rows)
    assert kernels.chosen() == before


class Seen(nn.Module):
    """Notes how it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.how: set[tuple[bool, bool, str]] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.how.add((self.training, torch.is_inference_mode_enabled(), kernels.chosen()))
        return x * self.weight


@pytest.mark.parametrize(
    ("way", "how"), [(inference, (False, True, "plain")), (training, (True, False, "plain"))]
)
def test_modes_and_kernels(way: object, how: object, case: Case, short: Length) -> None:
    seen = Seen()
    way(case, [Contender(name="a", build=lambda _: seen, kernel="plain")], short)
    assert seen.how == {how}


def test_a_step_gives_every_gradient_and_the_next_begins_without() -> None:
    block = nn.Conv2d(3, 3, 1)
    x, grad = torch.randn(1, 3, 4, 4, requires_grad=True), torch.ones(1, 3, 4, 4)
    before = [parameter.clone() for parameter in block.parameters()]
    step, forget = step_of(block, x, grad), without_gradients(block, x)
    step()
    once = [t.grad.clone() for t in (x, *block.parameters())]
    versions = [parameter._version for parameter in block.parameters()]
    forget()
    assert all(t.grad is None for t in (x, *block.parameters()))
    assert all(p._version > v for p, v in zip(block.parameters(), versions, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(block.parameters(), before, strict=True))
    step()
    again = [t.grad for t in (x, *block.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_the_copy_copies(case: Case, cpu: torch.device) -> None:
    x = case.maps(cpu)
    copied = copy_of(x).run()
    assert torch.equal(copied, x)
    assert copied.data_ptr() != x.data_ptr()
