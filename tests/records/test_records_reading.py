import math

import pytest

from coordcbam.records import STRONGLY, SUPPRESSING, read_row, verdict


@pytest.mark.parametrize(
    ("ratio", "alpha_eff", "level", "text"),
    [
        (SUPPRESSING, 0.75, "ok", "healthy"),
        (math.nextafter(SUPPRESSING, 0), 0.75, "warn", "suppressing"),
        (STRONGLY, 0.75, "warn", "suppressing"),
        (math.nextafter(STRONGLY, 0), 0.75, "alarm", "suppressing strongly"),
        (9.0, 0.75, "ok", "healthy"),
        (0.8, 0.6, "warn", "rescue active"),
        (0.4, 0.6, "warn", "suppressing; rescue active"),
        (0.1, 0.6, "alarm", "suppressing strongly; rescue active"),
        (math.nan, 0.75, "none", "no reading"),
        (math.inf, 0.75, "alarm", "not finite"),
        (-math.inf, 0.75, "alarm", "not finite"),
        (math.nan, 0.6, "warn", "no reading; rescue active"),
        (0.8, math.nan, "ok", "healthy"),
    ],
)
def test_the_rules_of_section_nine(ratio, alpha_eff, level, text):
    found = verdict(ratio, 0.75, alpha_eff)
    assert (found.level, found.text) == (level, text)


def test_rounding_is_no_rescue():
    assert verdict(0.8, 0.75, 0.75 * (1 - 5e-7)).level == "ok"
    assert verdict(0.8, 0.75, 0.75 * (1 - 5e-6)).text == "rescue active"
    # alpha_floor can lift alpha_eff above alpha; that weakens nothing.
    assert verdict(0.8, 0.1, 0.2).level == "ok"


def test_our_measure_takes_the_place_of_the_notebooks_where_it_is_known():
    ours = {"rho": 0.9, "skipped": 0.0, "r_out_pre": 0.1, "alpha": 0.7, "alpha_eff": 0.7}
    assert read_row(ours).text == "healthy"
    assert read_row(ours | {"rho": 0.3}).text == "suppressing strongly"
    assert read_row(ours | {"rho": math.nan}).text == "no reading"
    assert read_row(ours | {"skipped": math.nan}).text == "suppressing strongly"


def test_a_row_is_read_by_column_name():
    row = {"T": 2.0, "alpha_eff": 0.5, "r_out_pre": 0.4, "alpha": 0.7}
    assert read_row(row).text == "suppressing; rescue active"
    assert read_row({"alpha": 0.7, "alpha_eff": 0.7}).text == "no reading"
