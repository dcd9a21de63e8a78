import math
import random

import pytest

from coordcbam.report.thinning import thin


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000])
def test_short_input_comes_back_whole(count):
    values = [random.random() for _ in range(count)]
    assert thin(range(count), values) == (list(range(count)), [values])


@pytest.mark.parametrize("count", [1001, 5000, 123_457])
def test_every_stretch_keeps_its_extremes_of_every_series(count):
    a = [random.gauss(0, 1) for _ in range(count)]
    b = [random.gauss(0, 1) for _ in range(count)]
    steps, (kept_a, kept_b) = thin(range(count), a, b, limit=1000)
    assert len(steps) <= 1002
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, count - 1)
    assert [a[i] for i in steps] == kept_a
    for whole, kept in ((a, kept_a), (b, kept_b)):
        assert (min(kept), max(kept)) == (min(whole), max(whole))


def test_gaps_stay_gaps_and_lone_numbers_stay():
    values = [math.nan] * 4000
    values[1234] = 0.5
    values[2000:] = [1.0] * 2000
    steps, (kept,) = thin(range(4000), values, limit=100)
    known = {step: value for step, value in zip(steps, kept, strict=True) if math.isfinite(value)}
    assert known[1234] == 0.5
    assert all(step in (1234,) or step >= 2000 for step in known)
    assert sum(map(math.isnan, kept)) > 20
