"""Pictures in a run's folder: entries, files, stages."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.pictures import Shot, look
from coordcbam.pictures.files import file_of
from coordcbam.pictures.gates import gates_of
from coordcbam.records.pictures import read_pictures


class Half(nn.Module):
    def __init__(self, by=0.5):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


def block(seed=0):
    torch.manual_seed(seed)
    made = cc.CoordCBAM(3, cc.BlockConfig.step2())
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return nn.Sequential(made)


def shot(name="a.jpg", seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return Shot(name=name, tensor=torch.rand(1, 3, 8, 8, generator=generator), **more)


def test_an_entry_has_the_numbers_of_its_block(tmp_path):
    model, image = block(), shot(boxes=[(0.0, 0.0, 0.5, 0.5)])
    (entry,) = look(model, [image], tmp_path)
    gates = gates_of(model[0].eval(), image.tensor)
    assert (entry.image, entry.block, entry.stage, entry.note) == ("a.jpg", "0", "now", "")
    assert entry.rows == tuple(gates.rows.tolist())
    assert entry.columns == tuple(gates.columns.tolist())
    assert entry.gain == (
        gates.gain.min().item(),
        gates.gain.mean().item(),
        gates.gain.max().item(),
    )
    assert entry.objects == pytest.approx(gates.gain[:4, :4].mean().item())
    assert read_pictures(tmp_path, []) == [entry]
    with Image.open(tmp_path / entry.file) as drawn:
        assert drawn.format == "JPEG"


def test_channels_kept_and_cut(tmp_path):
    class Scale(nn.Module):
        def forward(self, x):
            return x * torch.linspace(2.0, 0.5, 16)[:, None, None]

    model = nn.Sequential(cc.Guard(Scale(), watch=True))
    image = Shot(name="a", tensor=torch.rand(1, 16, 4, 4))
    (entry,) = look(model, [image], tmp_path)
    assert [channel for channel, _ in entry.kept] == [0, 1, 2, 3, 4]
    assert [channel for channel, _ in entry.cut] == [15, 14, 13, 12, 11]
    assert [gate for _, gate in entry.kept] == pytest.approx([2.0, 1.9, 1.8, 1.7, 1.6])
    assert entry.cut[0][1] == pytest.approx(0.5)


def test_of_few_channels_none_is_both_kept_and_cut(tmp_path):
    (entry,) = look(block(), [shot()], tmp_path)
    assert len(entry.kept) == len(entry.cut) == 1
    assert entry.kept[0][0] != entry.cut[0][0]


def test_an_image_that_is_all_zero_is_said_to_be(tmp_path):
    image = Shot(name="a", tensor=torch.zeros(1, 3, 8, 8))
    (entry,) = look(nn.Sequential(cc.Guard(Half())), [image], tmp_path)
    assert math.isnan(entry.gain[0])
    assert entry.kept == ()
    assert "no gain: its input is 0 or not finite everywhere" in entry.note
    read = read_pictures(tmp_path, problems := [])
    assert (len(read), problems) == (1, [])


def test_stages_are_kept_and_a_stage_is_replaced(tmp_path):
    look(block(0), [shot("a"), shot("b", 1)], tmp_path, stage="before")
    look(block(1), [shot("a"), shot("b", 1)], tmp_path, stage="after")
    assert [(p.stage, p.image) for p in read_pictures(tmp_path, [])] == [
        *(("before", "a"), ("before", "b"), ("after", "a"), ("after", "b"))
    ]
    gone = tmp_path / file_of("b", "0", "after")
    assert gone.exists()
    look(block(2), [shot("a")], tmp_path, stage="after")
    found = read_pictures(tmp_path, [])
    assert [(p.stage, p.image) for p in found] == [("before", "a"), ("before", "b"), ("after", "a")]
    assert not gone.exists()
    assert {f"pictures/{p.name}" for p in (tmp_path / "pictures").glob("*.jpg")} == {
        p.file for p in found
    }


def blueness(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(float)[20:280, 20:280]
    return (pixels[..., 2] - pixels[..., 0]).mean()


def halving(by):
    guard = cc.Guard(Half(by), watch=True)
    return nn.Sequential(guard)


def test_the_stages_of_a_block_have_one_range_of_colours(tmp_path):
    (first,) = look(halving(0.9), [shot()], tmp_path, stage="before")
    alone = blueness(tmp_path / first.file)
    (last,) = look(halving(0.2), [shot()], tmp_path, stage="after")
    together = blueness(tmp_path / first.file)
    assert alone != pytest.approx(together, abs=10)  # in a range of 0.1, then in one of 0.8
    # And back: the range is that of what is there now.
    look(halving(0.9), [shot()], tmp_path, stage="after")
    assert blueness(tmp_path / first.file) == pytest.approx(alone, abs=0.5)
    assert blueness(tmp_path / last.file) == pytest.approx(alone, abs=0.5)


def test_a_picture_can_stay_without_its_map(tmp_path):
    (first,) = look(halving(0.9), [shot()], tmp_path, stage="before")
    (tmp_path / "pictures/maps.npz").write_bytes(b"PK\3\4 no archive")
    before = (tmp_path / first.file).read_bytes()
    look(halving(0.2), [shot()], tmp_path, stage="after")
    assert (tmp_path / first.file).read_bytes() == before
    assert len(read_pictures(tmp_path, [])) == 2


def test_names_become_files_that_differ_and_stay_below_the_folder(tmp_path):
    names = ["a/x.jpg", "b/x.jpg", "a-x.jpg", "../../etc/x.jpg", "/x.jpg", "değer.jpg", "図.png"]
    names += ["a" * 300, "a" * 299 + "b", "x.jpg\0", "\udcff.jpg", "..", " ", "CON", 'q"<>|?*:.png']
    look(block(), [shot(name) for name in names], tmp_path / "run")
    files = sorted(path.name for path in (tmp_path / "run/pictures").glob("*.jpg"))
    assert len(files) == len(names)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert all(len(name) < 120 and name.isascii() and " " not in name for name in files)


def test_a_canvas_is_drawn_on_instead_of_the_tensor(tmp_path):
    dark, light = np.zeros((30, 60, 3), np.uint8), Image.new("L", (60, 30), 255)
    tensor = torch.randn(1, 3, 8, 16) * 5
    shots = [Shot(name=n, tensor=tensor, canvas=c) for n, c in (("d", dark), ("l", light))]
    drawn = [
        np.asarray(Image.open(tmp_path / p.file).convert("L"))[10:140, 10:290].mean()
        for p in look(halving(1.0), shots, tmp_path)
    ]
    assert drawn[0] + 100 < drawn[1]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(channels, tmp_path):
    image = Shot(name="a", tensor=torch.rand(1, channels, 8, 8))
    assert look(nn.Sequential(cc.CoordCBAM(channels)), [image], tmp_path)


def test_a_list_that_names_other_files_has_none_of_them_written(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other.jpg"
    (entry,) = look(halving(0.9), [shot()], run, stage="before")
    other.write_text("mine")
    document = (run / "pictures.json").read_text()
    (run / "pictures.json").write_text(document.replace(entry.file, "../other.jpg"))
    with np.load(run / "pictures/maps.npz") as held:
        maps = {key.replace(entry.file, "../other.jpg"): held[key] for key in held.files}
    np.savez(run / "pictures/maps.npz", **maps)
    look(halving(0.2), [shot()], run, stage="after")
    look(halving(0.2), [shot()], run, stage="before")
    assert other.read_text() == "mine"


def test_a_list_that_cannot_be_read_is_written_anew(tmp_path):
    (tmp_path / "pictures.json").write_text("{")
    image = shot(boxes=[(0.0, 0.0, 0.5, 0.5)])
    assert look(block(), [image], tmp_path) == read_pictures(tmp_path, [])


def test_a_failure_leaves_the_folder_as_it_was(tmp_path):
    with pytest.raises(RuntimeError):
        look(nn.Sequential(nn.Conv2d(5, 3, 1), cc.CoordCBAM(3)), [shot()], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_is_said(tmp_path):
    for images, stage, said in (
        ([], "now", "no images; expected one Shot or more"),
        ([shot(), shot()], "now", "two images are named 'a.jpg'"),
        (["a.jpg"], "now", "images has 'a.jpg': expected Shots"),
        ([shot()], "then", "stage='then': expected before, after, now"),
    ):
        with pytest.raises(UsageError, match=said):
            look(block(), images, tmp_path, stage=stage)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file cannot be written: "):
        look(block(), [shot()], tmp_path / "file")
    assert not list(tmp_path.glob("pictures*"))
