"""The tables say what the trials came to."""

import dataclasses

import pytest
from _stress import VERSIONS, by_name

from evidence.stress.arms import ARMS
from evidence.stress.table import PAIRS, arm_rows, document, pair_rows, remarks, signal_rows
from evidence.stress.train import Settings


def test_the_tables_show_what_was_measured(trials):
    trials.sort(key=lambda one: -one.seed if one.arm == "none" else one.seed)  # as they come
    made = document(trials, Settings(), VERSIONS)
    arms = by_name(arm_rows(made))
    assert arms["none"] == ("0.733 [0.60, 0.90]", "0/6", "", "", "")
    # 0.3 is not below 0.3
    assert arms["timm cbam"][:2] == ("0.133 [0.10, 0.30]", "5/6")
    assert arms["timm cbam"][2].startswith("-0.600 [-0.7")
    assert arms["timm cbam"][3:] == ("0.031", "lower")
    assert arms["step 2"][2:] == ("+0.000 [-0.067, +0.067]", "1.000", "no difference shown")
    signal = by_name(signal_rows(made))
    assert signal["none"] == ("7", "1.00", "–", "0.5", "2.00")
    assert signal["guarded cbam"] == ("7", "1.00", "90%", "0.5", "2.00")
    assert signal["step 3"] == ("7", "1.00", "0%", "0.25", "2.00")
    assert signal["step 2"][-1] == "2.00"  # the distance from gain 1, on either side


def test_pairs_are_those_whose_arms_ran(trials):
    pairs = by_name(pair_rows(document(trials, Settings(), VERSIONS)))
    assert set(pairs) == {
        "step 3 − step 2",
        "guarded cbam − timm cbam",
        "step 3 − step 3, watched",
    }
    assert pairs["step 3 − step 3, watched"][1:] == (
        "+0.000 [+0.000, +0.000]",
        "1.000",
        "identical",
    )
    assert pairs["guarded cbam − timm cbam"][-1] == "higher"
    assert {name for a, b, _ in PAIRS for name in (a, b)} <= set(ARMS)


@pytest.mark.parametrize("change", [{"weights": "other"}, {"accuracy": 0.1}])
def test_one_seed_that_differs_is_not_identical(trials, change):
    trials = [
        dataclasses.replace(one, **change) if (one.arm, one.seed) == ("step 3", 4) else one
        for one in trials
    ]
    pairs = by_name(pair_rows(document(trials, Settings(), VERSIONS)))
    assert pairs["step 3 − step 3, watched"][-1] == "no difference shown"


@pytest.mark.parametrize(("seeds", "least"), [(2, "0.5"), (6, "0.0312")])
def test_the_remarks_say_how_small_p_can_get_and_how_many_tests_there_are(trials, seeds, least):
    made = document([one for one in trials if one.seed < seeds], Settings(), VERSIONS)
    text = " ".join(remarks(made))
    assert f"With {seeds} seeds p cannot go below {least}," in text
    assert "none of the 8 tests is corrected" in text
    assert "no difference shown" in text
