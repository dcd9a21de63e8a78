"""Objects against background, by hand on a map of 4x4."""

import math

import pytest
import torch

from coordcbam.pictures.regions import contrast, covered
from coordcbam.pictures.shot import Shot

GAIN = torch.arange(16.0, dtype=torch.float64).reshape(4, 4)


def shot(boxes, **more):
    return Shot(name="a", tensor=torch.zeros(1, 3, 32, 32), boxes=boxes, **more)


def test_the_means_by_hand():
    # The upper left quarter has 0, 1, 4, 5; the rest has the other twelve, 110 together.
    on, off, note = contrast(GAIN, shot([(0.0, 0.0, 0.5, 0.5)]))
    assert (on, off, note) == (2.5, 110 / 12, "")


def test_a_cell_counts_by_its_centre():
    # Centres are at 1/8, 3/8, 5/8, 7/8 of the side.
    assert covered([(0.12, 0.12, 0.13, 0.13)], 4, 4).nonzero().tolist() == [[0, 0]]
    assert covered([(0.13, 0.0, 0.37, 1.0)], 4, 4).sum() == 0
    assert covered([(0.6, 0.0, 0.9, 0.2)], 4, 4).nonzero().tolist() == [[0, 2], [0, 3]]


def test_boxes_that_overlap_count_once():
    on, _, _ = contrast(GAIN, shot([(0.0, 0.0, 0.5, 0.25), (0.0, 0.0, 0.25, 0.25)]))
    assert on == 0.5


def test_rows_are_down_and_columns_across():
    on, _, _ = contrast(GAIN[:2], shot([(0.5, 0.0, 1.0, 0.5)]))
    assert on == 2.5


def test_padding_is_neither():
    on, off, _ = contrast(GAIN, shot([(0.0, 0.0, 0.25, 1.0)], inside=(0.0, 0.25, 1.0, 1.0)))
    assert on == 8.0  # 4, 8 and 12
    assert off == pytest.approx((5 + 6 + 7 + 9 + 10 + 11 + 13 + 14 + 15) / 9)


def test_a_position_without_a_gain_is_left_out():
    gain = GAIN.clone()
    gain[0, 0] = math.nan
    assert contrast(gain, shot([(0.0, 0.0, 0.5, 0.5)]))[0] == pytest.approx(10 / 3)
    on, _, note = contrast(gain, shot([(0.0, 0.0, 0.25, 0.25)]))  # a cell it has
    assert (math.isnan(on), note) == (True, "")


@pytest.mark.parametrize(
    ("boxes", "note"),
    [
        (None, "no labels"),
        ([], "no objects in its labels"),
        ([(0.13, 0.0, 0.37, 1.0)], "no cell's centre is in its objects"),
        ([(0.0, 0.0, 1.0, 1.0)], "no background"),
    ],
)
def test_what_is_missing_is_said(boxes, note):
    on, off, said = contrast(GAIN, shot(boxes))
    assert said == note
    assert math.isnan(on) or math.isnan(off)
