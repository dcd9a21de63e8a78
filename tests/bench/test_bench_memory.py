"""Bytes, on modules whose answer is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from coordcbam.bench import Case, Contender
from coordcbam.bench.memory import highest, peak, peak_bytes, saved, saved_bytes

KIB = 1024


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        return 2.0 * y

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(16, 16))
        self.register_buffer("table", torch.ones(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


KNOWN = {
    "its output": (lambda m, x: x.sigmoid(), KIB),
    "its input": (lambda m, x: x.square(), KIB),
    "one storage twice": (lambda m, x: x * x.view(256).view(16, 16), KIB),
    "a part of a storage keeps all of it": (lambda m, x: (2 * x)[:4].square(), KIB),
    "a weight is no cost, the input is": (lambda m, x: x * m.weight, KIB),
    "a weight's view is none either": (lambda m, x: x * m.weight.t(), KIB),
    "nor is a buffer": (lambda m, x: x * m.table, 0),
    "something made of a weight is": (lambda m, x: x * (2 * m.weight), 2 * KIB),
    "a sum needs nothing": (lambda m, x: x + m.weight, 0),
    "a custom function's own": (lambda m, x: Custom.apply(x), KIB),
    "a chain": (lambda m, x: x.sigmoid().exp().tanh(), 3 * KIB),
}


@pytest.mark.parametrize(("function", "expected"), KNOWN.values(), ids=KNOWN)
def test_saved_bytes_of_known_modules(function: object, expected: int) -> None:
    assert saved_bytes(Of(function), torch.ones(16, 16, requires_grad=True)) == expected


def test_saved_rows(few: list[Contender], case: Case) -> None:
    rows = {row.contender: row for row in saved(case, few)}
    assert rows["timm se"].value == 1.0  # a convolution keeps its input
    assert rows["coordcbam step2"].value < rows["notebook step2"].value
    assert {row.unit for row in rows.values()} == {"times x"}
    assert [row.kernel for row in rows.values()] == ["algebra", "plain", None]


def test_the_highest_level() -> None:
    assert highest([]) == 0
    assert highest([-5, 3]) == 0
    assert highest([4, 4, -8, 6]) == 8


def test_peak_bytes_of_known_runs() -> None:
    x = torch.ones(64 * KIB)  # 256 KiB
    assert peak_bytes(x.exp) == 256 * KIB
    assert peak_bytes(lambda: x.exp().exp().neg()) == 2 * 256 * KIB
    assert peak_bytes(x.neg_) == 0
    kept: list[Tensor] = []
    assert peak_bytes(lambda: kept.append(x.exp()), kept.clear) == 256 * KIB


def test_peak_rows(few: list[Contender]) -> None:
    case = Case(size=(2, 8, 64, 64))
    rows = {(row.contender, row.mode): row for row in peak(case, few)}
    assert len(rows) == 2 * len(few)
    conv = [rows["timm se", f"peak {mode}"].value for mode in ("inference", "training")]
    assert conv[0] == pytest.approx(1.0, abs=0.01)  # its output
    assert conv[1] == pytest.approx(2.0, abs=0.3)  # and the gradient of its input
    for mode in ("peak inference", "peak training"):
        assert rows["notebook step2", mode].value > rows["timm se", mode].value
