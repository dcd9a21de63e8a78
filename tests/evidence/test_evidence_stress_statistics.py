"""Few seeds: intervals, p and verdicts, against values computed by hand."""

import pytest

from evidence.stress.statistics import compare, interval, least_p, sign_flip


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),
        ([-1.0, -2.0, -3.0], 2 / 8),
        ([3.0, 1.0, -1.0], 6 / 8),  # |3 + 1 + 1| = 5, twice |3 + 1 - 1| = 3, and their mirrors
        ([1.0, 1.0, -1.0], 1.0),
        ([0.1, 0.2, 0.3], 2 / 8),  # 0.1 + 0.2 + 0.3 and its mirror, whatever the rounding
        ([0.3, 0.1, 0.2, -0.6], 1.0),  # a sum of 0, which floats miss
        ([0.0, 0.0], 1.0),
        ([0.5] * 6, 0.03125),
    ],
)
def test_p_is_the_share_of_sign_patterns_that_far_from_0(differences, p):
    assert sign_flip(differences) == p


@pytest.mark.parametrize("seeds", [2, 5, 6, 10])
def test_the_least_p_is_what_seeds_of_one_sign_give(seeds):
    assert sign_flip([1.0 + seed for seed in range(seeds)]) == least_p(seeds)


def test_the_interval_is_that_of_the_resampled_means():
    assert interval([0.25] * 6) == (0.25, 0.25)
    # Of 256 resamples one has mean 1 and twelve 3/4: the 97.5 % quantile is 3/4; 81 have mean 0.
    assert interval([0.0, 0.0, 0.0, 1.0]) == (0.0, 0.75)
    assert interval([0.0, 0.0, 1.0]) == (0.0, 1.0)  # mean 1 in 1 of 27, 3.7 %
    drawn = [0.3, -0.1, 0.2, 0.05, 0.4, 0.0]
    assert interval(drawn) == interval(drawn)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, 0.2, -0.3, 0.1, 0.0, 0.1], "no difference shown"),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.5], "no difference shown"),  # the interval begins at 0
        ([0.1, 0.2, 0.3, 0.1, 0.2, 0.1], "higher"),
        ([-0.1, -0.2, -0.3, -0.1, -0.2, -0.1], "lower"),
        ([0.1, 0.2, 0.3, 0.1, 0.2], "higher, but p > .05"),  # five seeds cannot go below .0625
        ([-0.5, -0.4, -0.5, -0.4, -0.4, 0.02], "lower, but p > .05"),
    ],
)
def test_the_verdict_claims_no_more_than_interval_and_test(differences, verdict):
    assert compare(differences, [0.0] * len(differences)).verdict == verdict


def test_differences_are_paired_by_seed():
    hard_and_easy = [0.1, 0.9, 0.5, 0.3, 0.7, 0.2]
    found = compare([value + 0.01 for value in hard_and_easy], hard_and_easy)
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))
    assert found.p == least_p(6)
    with pytest.raises(ValueError, match="zip"):
        compare([0.1, 0.2], [0.1])
