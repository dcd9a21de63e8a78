"""Pictures: tight boxes, ink that can be seen, little overlap."""

import itertools

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("PIL")

from PIL import Image

from coordcbam.data import glyphs, scene

SIZE = 128
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def inks():
    return glyphs.load_glyphs().ink


@pytest.fixture(scope="module")
def photographs():
    return scene.load_photographs()


def grey(level):
    return Image.new("RGB", (640, 427), (level,) * 3)


@pytest.mark.parametrize("seed", range(20))
def test_the_box_is_the_tight_box_of_the_ink(inks, seed):
    rng = np.random.default_rng(seed)
    before = np.full((SIZE, SIZE, 3), 100, dtype=np.float32)
    masks, (box,) = scene.arrange([inks[seed]], SIZE, rng)
    after = before.copy()
    scene.blend(after, masks[0], box, rng)
    # Ink is seen from a change of nine levels on (opacity 0.12, contrast 75).
    changed = np.abs(after - before).max(axis=2) > 9
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@pytest.mark.parametrize("size", [32, 64, 128, 200])
def test_boxes_lie_inside_and_hardly_overlap(inks, photographs, size):
    rng = np.random.default_rng(0)
    for index in range(0, 80, 4):
        picture, boxes = scene.render(inks[index : index + 4], photographs, size, rng)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert len(boxes) == 4
        for box in boxes:
            assert 0 <= box.left < box.right <= size
            assert 0 <= box.top < box.bottom <= size
        for one, other in itertools.combinations(boxes, 2):
            assert scene.overlap(one, other) <= 0.05


@pytest.mark.parametrize("level", [0, 60, 127, 128, 200, 255])
def test_ink_stands_out_from_the_ground(inks, level):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        picture, (box,) = scene.render([inks[seed]], [grey(level)], SIZE, rng)
        inside = picture[box.top : box.bottom, box.left : box.right] @ LUMA
        ground = picture[0, 0] @ LUMA if box.left or box.top else picture[-1, -1] @ LUMA
        assert np.abs(inside - ground).max() > 45


def test_every_glyph_leaves_ink(inks):
    for ink in inks[::7]:
        mask = scene.enlarge(ink, 14.0)
        assert min(mask.shape) >= 2
        assert mask.max() > 0.5
        assert all(edge.max() > 0.1 for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def test_glyph_heights_span_the_range(inks):
    rng = np.random.default_rng(0)
    boxes = [scene.arrange([ink], SIZE, rng)[1][0] for ink in inks[:200]]
    heights = np.array([box.bottom - box.top for box in boxes]) / SIZE
    assert heights.min() < 0.27
    assert heights.max() > 0.36
    assert heights.max() < 0.46


def test_backgrounds_vary_and_come_from_both_photographs(photographs):
    red, blue = Image.new("RGB", (640, 427), "red"), Image.new("RGB", (640, 427), "blue")
    rng = np.random.default_rng(0)
    corners = [scene.render([], [red, blue], 32, rng).picture[0, 0] for _ in range(30)]
    assert {int(np.argmax(corner)) for corner in corners} == {0, 2}
    crops = [scene.background(photographs[0], 32, rng) for _ in range(10)]
    assert all(np.abs(a - b).mean() > 3 for a, b in itertools.combinations(crops, 2))


def test_the_photograph_is_not_changed(inks, photographs):
    before = [np.asarray(photograph).copy() for photograph in photographs]
    scene.render(inks[:4], photographs, 64, np.random.default_rng(0))
    for old, photograph in zip(before, photographs, strict=True):
        assert np.array_equal(old, np.asarray(photograph))


def test_same_stream_same_picture(inks, photographs):
    one, other = (
        scene.render(inks[:3], photographs, 64, np.random.default_rng(7)) for _ in range(2)
    )
    assert np.array_equal(one.picture, other.picture)
    assert one.boxes == other.boxes
