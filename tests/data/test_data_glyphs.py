"""Which glyph goes where: no glyph in both training and validation images."""

import itertools
import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from coordcbam.data import DigitsConfig, digits, glyphs


def used(split, images, seed=0):
    return set(itertools.chain(*glyphs.choose_glyphs(split, images, seed=seed)))


def test_the_split_is_disjoint_and_complete():
    split = glyphs.split_glyphs()
    together = np.concatenate([split["train"], split["val"]])
    assert sorted(together) == list(range(1797))


def test_both_sides_have_every_digit():
    known, split = glyphs.load_glyphs(), glyphs.split_glyphs()
    for indices in split.values():
        assert np.bincount(known.digit[indices], minlength=10).min() >= 30


def test_no_glyph_crosses_even_between_seeds():
    # 2000 images use every glyph of their side.
    train, val = used("train", 2000), used("val", 2000, seed=5)
    assert train.isdisjoint(val)
    assert train | val == set(range(1797))


def test_no_glyph_repeats_before_all_were_used():
    flat = list(itertools.chain(*glyphs.choose_glyphs("val", 300, seed=0)))
    assert len(flat) > 449
    assert len(set(flat[:449])) == 449


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_to_four_glyphs_an_image(split):
    counts = {len(indices) for indices in glyphs.choose_glyphs(split, 300, seed=0)}
    assert counts == {2, 3, 4}


def test_seeds_choose_differently():
    assert glyphs.choose_glyphs("train", 9, seed=0) != glyphs.choose_glyphs("train", 9, seed=1)


def test_the_writer_pastes_the_chosen_glyphs(tmp_path, monkeypatch):
    from coordcbam.data import scene

    known, render, pasted = glyphs.load_glyphs(), scene.render, []

    def watching(inks, *rest):
        pasted.append([_index_of(ink, known.ink) for ink in inks])
        return render(inks, *rest)

    monkeypatch.setattr(scene, "render", watching)
    data = digits(DigitsConfig(train=6, val=3, size=64), root=tmp_path)
    chosen = json.loads((data.parent / "manifest.json").read_text("utf-8"))["glyphs"]
    assert chosen == {
        "train": glyphs.choose_glyphs("train", 6, seed=0),
        "val": glyphs.choose_glyphs("val", 3, seed=0),
    }
    assert pasted == chosen["train"] + chosen["val"]
    split = glyphs.split_glyphs()
    assert set(itertools.chain(*pasted[:6])) <= set(split["train"])
    assert set(itertools.chain(*pasted[6:])) <= set(split["val"])


def test_labels_say_what_was_pasted(tmp_path):
    known = glyphs.load_glyphs()
    data = digits(DigitsConfig(train=6, val=3, size=64), root=tmp_path)
    chosen = json.loads((data.parent / "manifest.json").read_text("utf-8"))["glyphs"]
    for split, per_image in chosen.items():
        for index, indices in enumerate(per_image):
            text = (data.parent / f"labels/{split}/{index:05d}.txt").read_text("utf-8")
            classes = [int(line.split()[0]) for line in text.splitlines()]
            assert classes == known.digit[indices].tolist()


def _index_of(ink, all_inks):
    (found,) = np.flatnonzero((all_inks == ink).all(axis=(1, 2)))
    return int(found)
