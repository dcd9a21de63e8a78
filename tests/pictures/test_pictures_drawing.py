"""The pictures: colours that mean what they say, whatever the image."""

import io

import numpy as np
import pytest
from PIL import Image

from coordcbam.pictures.colours import laid_over, reach_of
from coordcbam.pictures.drawing import HEAVIEST, TALLEST, WIDTH, Sheet, draw

GREY = np.full((1, 5, 3), 150.0, np.float32)


def sheet(height, width, value=1.0):
    return Sheet(
        np.full((height, width), value, np.float32),
        np.ones(height, np.float32),
        np.ones(width, np.float32),
    )


def opened(jpeg):
    image = Image.open(io.BytesIO(jpeg))
    return np.asarray(image.convert("RGB")).astype(float)


def test_one_is_no_colour_less_is_blue_more_is_orange():
    values = np.array([[1.0, 0.8, 0.9, 1.1, 1.2]], np.float32)
    one, *cut, more, most = laid_over(GREY, values, 0.2)[0]
    assert one.tolist() == [150.0] * 3
    assert all(blue > red for red, _, blue in cut)
    assert all(red > blue for red, _, blue in (more, most))
    # Each step is darker: told apart without colour too.
    assert cut[0].mean() < cut[1].mean()
    assert most.mean() < more.mean()


def test_beyond_the_range_is_its_end_and_nan_is_no_colour():
    values = np.array([[0.8, 0.0, np.nan, 5.0, 1.2]], np.float32)
    low, lower, none, higher, high = laid_over(GREY, values, 0.2)[0].tolist()
    assert low == pytest.approx(lower, abs=0.01)
    assert high == pytest.approx(higher, abs=0.01)
    assert none == [150.0] * 3


def test_the_range_is_symmetric_rounded_up_and_bounded():
    assert reach_of(np.array([0.871, 1.0])) == 0.13
    assert reach_of(np.array([1.0, 1.0])) == 0.05
    assert reach_of(np.array([-40.0, 9.0])) == 1.0
    assert reach_of(np.array([0.8, 0.9])) == 0.2  # no step up by the float's last bit
    many = np.ones(1000)
    many[0] = 50.0  # one cell of a thousand
    assert reach_of(many) == 0.05


@pytest.mark.parametrize("size", [(128, 128), (8, 8), (4000, 300), (300, 4000), (1, 1), (640, 480)])
def test_any_size_gives_a_picture_that_is_light(size):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    jpeg = draw(Image.fromarray(noise), sheet(16, 16, 0.9), [(0.1, 0.1, 0.6, 0.8)], 0.2)
    height, width, _ = opened(jpeg).shape
    assert len(jpeg) <= HEAVIEST
    assert width == WIDTH
    assert height < TALLEST + 60


@pytest.mark.parametrize("mode", ["L", "RGBA", "RGB", "P", "1"])
def test_any_mode_of_canvas(mode):
    jpeg = draw(Image.new("RGB", (64, 64), "grey").convert(mode), sheet(4, 4), [], 0.1)
    assert opened(jpeg).shape[1] == WIDTH


def test_the_gain_is_where_it_is_in_the_map():
    gains = sheet(4, 4)
    gains.gain[:2, 2:] = 0.5  # upper right
    gains.rows[3] = 1.5
    gains.columns[0] = 0.5
    pixels = opened(draw(Image.new("L", (304, 304), 128), gains, [], 0.5))
    blueness = pixels[..., 2] - pixels[..., 0]
    assert blueness[40, 260] > 40
    assert abs(blueness[260, 40]) < 8
    right, below = 312, 314
    assert blueness[270, right] < -40  # orange: the last row's gate
    assert abs(blueness[40, right]) < 8
    assert blueness[below, 30] > 40  # blue: the first column's gate
    assert abs(blueness[below, 200]) < 8


def test_a_box_is_outlined_where_it_is():
    plain = draw(Image.new("L", (304, 304), 128), sheet(4, 4), [], 0.5)
    boxed = draw(Image.new("L", (304, 304), 128), sheet(4, 4), [(0.25, 0.5, 0.75, 0.75)], 0.5)
    rows, columns = (np.abs(opened(plain) - opened(boxed)).max(axis=2) > 60).nonzero()
    assert abs(columns.min() - 76) <= 2
    assert abs(columns.max() - 228) <= 2
    assert abs(rows.min() - (4 + 152)) <= 2
    assert abs(rows.max() - (4 + 228)) <= 2


def test_a_box_that_is_upside_down_is_no_failure():
    draw(Image.new("L", (20, 20)), sheet(2, 2), [(0.9, 0.9, 0.1, 0.1), (0, 0, 0, 0)], 0.1)
