"""Run as a program under TRITON_INTERPRET=1: every case of the Triton passes against the twin.

Triton reads that variable when it is imported, so this needs an interpreter of its own. The last
line of stdout is JSON: how many cases there were, and what went wrong in which.
"""

import itertools
import json

import numpy as np
import torch

from coordcbam.kernels import algebra, triton_passes
from coordcbam.kernels.passes import Factors, Shape, Statistics
from coordcbam.kernels.triton_passes import PASSES, supports

FREE = Shape(0.35, float("-inf"), float("inf"))
SHAPES = {
    "FREE": FREE,
    "CLAMPED": Shape(0.8, 0.5, 0.75),
    "FLOORED": Shape(0.8, 0.6, float("inf")),
    "WHOLE": FREE._replace(beta=1.0),
    "AT_LOW": Shape(0.5, 1.0, 2.0),
    "AT_HIGH": Shape(0.5, 0.25, 1.0),
}
# The tiles of a GPU swallow these maps whole; small ones walk, and stick out on every side.
SMALL = {"ELEMENTS": 16, "COLUMNS": 4, "FEW_COLUMNS": 2, "RUN": 8}
SIZES = ((1, 1, 1, 1), (2, 3, 4, 5), (1, 5, 3, 4), (2, 2, 5, 1))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
TILES = {"small": SMALL, "real": {name: getattr(triton_passes, name) for name in SMALL}}


def cases():
    """(size, dtype, layout, gain, tiles, content) of every case."""
    yield from itertools.product(SIZES, DTYPES, LAYOUTS, ("FREE", "CLAMPED"), ["small"], ["relu"])
    wide, odd = (1, 2, 2, 19), (1, 3, 3, 5)
    yield from itertools.product([wide], DTYPES, LAYOUTS, ["FLOORED"], ["real"], ["relu"])
    yield from itertools.product([odd], DTYPES, LAYOUTS, ["WHOLE"], ["small"], ["negative", "nan"])
    yield from itertools.product([odd], DTYPES, LAYOUTS, ["CLAMPED"], ["small"], ["nan"])
    yield from itertools.product([odd], DTYPES, LAYOUTS, ["AT_LOW", "AT_HIGH"], ["small"], ["flat"])


def signal(size, dtype, layout, content):
    """A map to look at: half zeros, so that most rows and columns are tied; or something worse."""
    x = torch.randn(size).relu()
    if content == "negative":
        x = -1.0 - x
        x[..., -1, -1] = 0.0  # the peak equals what a tile reads outside the map
    elif content == "flat":
        x.fill_(2.0)
    elif content == "nan":
        x[0, 0, 1, 2] = x[0, 0, 2, 0] = x[0, 1, 0, 0] = torch.nan
    return x.to(dtype).contiguous(memory_format=layout)


def small_tensors(size, dtype, content):
    """Factors as views into one tensor, as the side net gives them; their channel has any sign.

    A flat map has factors of 1, so that the gain lies at an end of its clamp; a NaN spreads.
    """
    B, C, H, W = size
    masks = torch.ones(B, C, H + W) if content == "flat" else 1.5 * torch.rand(B, C, H + W)
    if content == "nan":
        masks[0, 0, 0] = masks[0, 1, -1] = torch.nan
    rows, cols = masks.to(dtype).split([H, W], dim=2)
    return Factors(torch.randn(B, C).to(dtype), rows, cols), torch.tensor(0.7)


def gradient(x, kind):
    """A gradient of the output: laid out as x, the other way round, or one number for all."""
    if kind == 0:
        return torch.randn_like(x)
    if kind == 1:
        other = LAYOUTS[x.is_contiguous()]
        return torch.randn(x.shape).to(x.dtype).contiguous(memory_format=other)
    return torch.full((), 0.5, dtype=x.dtype).expand(x.shape)


def doubled(value):
    """The same in float64."""
    if isinstance(value, tuple):
        return type(value)(*map(doubled, value))
    return value.double() if isinstance(value, torch.Tensor) else value


def passes_of(passes, grad, x, factors, shape, alpha, statistics, gradients):
    """What every pass gives, by name."""
    by_factors, d_alpha = passes.factors(grad, x, factors, shape, alpha)
    measured, sums = passes.measure(x, factors, shape, alpha)
    return {
        **{f"profile.{name}": t for name, t in passes.profile(x)._asdict().items()},
        "scale": passes.scale(x, factors, shape, alpha),
        "measure": measured,
        "sums": sums,
        **{f"factors.{name}": t for name, t in by_factors._asdict().items()},
        "factors.alpha": d_alpha,
        "input": passes.input(grad, x, factors, shape, alpha, statistics, gradients),
    }


def wrong(number, size, dtype, layout, gain, tiles, content):
    """What of a case is not the twin's in float64, rounded; by PyTorch's own tolerances."""
    torch.manual_seed(number)
    for name, value in TILES[tiles].items():
        setattr(triton_passes, name, value)
    x = signal(size, dtype, layout, content)
    assert supports(x) is None
    factors, alpha = small_tensors(size, dtype, content)
    statistics = Statistics(*(t.to(dtype) for t in algebra.profile(x.double())))
    gradients = Statistics(*(torch.randn_like(t) for t in statistics))
    given = gradient(x, number % 3), x, factors, SHAPES[gain], alpha, statistics, gradients
    want = passes_of(algebra.PASSES, *map(doubled, given))
    found = []
    for name, got in passes_of(PASSES, *given).items():
        expected = torch.float32 if name in {"sums", "factors.alpha"} else dtype
        try:
            assert got.dtype == expected, got.dtype
            torch.testing.assert_close(got, want[name].to(expected), equal_nan=True)
            if name in {"scale", "measure", "input"}:
                assert got.stride() == x.stride(), got.stride()
        except AssertionError as error:
            found.append(f"{name}: {error}")
    return found


def main():
    """Every case, and the exact ones: a gain of 1 changes no bit, whatever alpha and beta."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # also: what is never written is NaN
    failed, ran = {}, 0
    with np.errstate(divide="ignore", invalid="ignore"):  # the interpreter's, where x has a NaN
        for number, case in enumerate(cases()):
            if messages := wrong(number, *case):
                failed[str(case)] = messages
            ran += 1
    x = torch.randn(1, 2, 3, 4)
    ones = Factors(*(torch.ones(1, 2, *more) for more in ((), (3,), (4,))))
    same = [
        torch.equal(PASSES.scale(x, ones, FREE._replace(beta=beta), torch.tensor(alpha)), x)
        for alpha, beta in itertools.product((0.1, 0.35, 0.7, 1.0), repeat=2)
    ]
    print(json.dumps({"cases": ran, "failed": failed, "identities": same}))


if __name__ == "__main__":
    main()
