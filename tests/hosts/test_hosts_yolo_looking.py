"""Pictures of a YOLO: images as its predictor takes them, boxes where the objects are, no trace."""

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

import coordcbam as cc
from coordcbam._support.errors import UsageError
from coordcbam.data import DigitsConfig, digits
from coordcbam.hosts import ultralytics as host
from coordcbam.hosts.ultralytics import YOLO, look_at
from coordcbam.hosts.yolo import looking
from coordcbam.hosts.yolo.labels import label_file, labelled
from coordcbam.hosts.yolo.looking import _shot, names_of
from coordcbam.pictures import Shot
from coordcbam.records.pictures import Picture, read_pictures

PLACES = ["model.16", "model.19", "model.22"]
LOGGER = logging.getLogger("ultralytics")


def painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Black, with a red rectangle."""
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), box)
    return image


def as_set(folder: Path, image: Image.Image, row: str | None, name: str = "a.png") -> Path:
    file = folder / "images" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    if row is not None:
        label_file(file).parent.mkdir(parents=True, exist_ok=True)
        label_file(file).write_text(row)
    return file


@pytest.fixture(scope="session")
def model() -> Any:
    """A yolo11n with a block that acts from the start."""
    torch.manual_seed(0)
    made = YOLO("yolo11n.yaml")
    made.insert("P3", cc.BlockConfig.step2())
    return made


def seen(model: Any, file: Path, imgsz: int = 128, task: str = "detect") -> Shot:
    sight = host._sight(model._smart_load("predictor"), model.model, task, imgsz)
    return _shot(file.name, str(file), labelled(file, task), sight)


def red(tensor: torch.Tensor) -> tuple[float, float, float, float]:
    """Where the red rectangle is, as shares."""
    height, width = tensor.shape[2:]
    rows, columns = ((tensor[0, 0] > 0.6) & (tensor[0, 1] < 0.3)).nonzero().unbind(1)
    return (
        columns.min().item() / width,
        rows.min().item() / height,
        (columns.max().item() + 1) / width,
        (rows.max().item() + 1) / height,
    )


def row_of(size: tuple[int, int], box: tuple[int, int, int, int]) -> str:
    (width, height), (left, top, right, bottom) = size, box
    x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
    return f"3 {x} {y} {(right - left) / width} {(bottom - top) / height}\n"


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((300, 200), (30, 40, 120, 160)),
        ((200, 300), (100, 200, 180, 260)),
        ((1000, 130), (700, 30, 900, 100)),
        ((8, 8), (2, 2, 6, 6)),
        ((4000, 3000), (1000, 500, 3000, 1500)),
    ],
)
def test_boxes_land_where_the_object_is(
    size: tuple[int, int], box: tuple[int, int, int, int], model: Any, tmp_path: Path
) -> None:
    shot = seen(model, as_set(tmp_path, painted(size, box), row_of(size, box)))
    assert shot.boxes is not None
    assert shot.boxes[0] == pytest.approx(red(shot.tensor), abs=1.6 / 128 + 0.02 * (size[0] < 10))


def test_the_image_is_what_the_predictor_gives_the_network(model: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 200, 3), dtype=np.uint8)
    file = as_set(tmp_path, Image.fromarray(noise), None)
    met: list[torch.Tensor] = []
    own = YOLO("yolo11n.yaml")
    own.add_callback(
        "on_predict_start",
        lambda predictor: predictor.model.register_forward_pre_hook(
            lambda _, args: met.append(args[0].clone())
        ),
    )
    own.predict(str(file), imgsz=128, verbose=False)
    shot = seen(model, file)
    assert torch.equal(met[-1].cpu().float(), shot.tensor)
    assert shot.tensor.shape == (1, 3, 64, 128)  # the least rectangle


def test_an_rtdetr_stretches_as_its_predictor_does(tmp_path: Path) -> None:
    size, box = (300, 150), (30, 40, 120, 140)
    file = as_set(tmp_path, painted(size, box), row_of(size, box))
    kind = host.ultralytics.models.rtdetr.RTDETRPredictor
    network = nn.Conv2d(3, 3, 1)
    network.stride, network.yaml = torch.tensor([32]), {}  # type: ignore[assignment]
    shot = _shot(
        "a", str(file), labelled(file, "detect"), host._sight(kind, network, "detect", 128)
    )
    assert shot.tensor.shape == (1, 3, 128, 128)
    assert shot.boxes is not None
    assert shot.boxes[0] == pytest.approx(red(shot.tensor), abs=0.012)
    assert shot.inside == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_any_mode_of_image(mode: str, model: Any, tmp_path: Path) -> None:
    image = painted((100, 60), (10, 10, 50, 50)).convert(mode)
    shot = seen(model, as_set(tmp_path, image, None))
    assert shot.tensor.shape == (1, 3, 96, 128)
    assert shot.boxes is None


def test_an_image_that_is_turned_by_its_exif_is_taken_upright(model: Any, tmp_path: Path) -> None:
    upright, size, box = painted((60, 120), (10, 70, 50, 110)), (60, 120), (10, 70, 50, 110)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    file = tmp_path / "images" / "turned.jpg"
    file.parent.mkdir()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif, quality=95)
    assert ImageOps.exif_transpose(Image.open(file)).size == size
    label_file(file).parent.mkdir()
    label_file(file).write_text(row_of(size, box))
    shot = seen(model, file)
    assert shot.tensor.shape == (1, 3, 128, 64)
    assert shot.boxes is not None
    assert shot.boxes[0] == pytest.approx(red(shot.tensor), abs=0.03)


def test_the_numbers_of_objects_and_background_are_those_of_the_boxes(
    model: Any, tmp_path: Path
) -> None:
    size, box = (300, 200), (30, 40, 120, 160)
    file = as_set(tmp_path, painted(size, box), row_of(size, box))
    (entry,) = look_at(model, [file], tmp_path / "out", imgsz=128)
    shot = seen(model, file)
    (gates,) = looking.look.__globals__["capture"](model.model, [shot.tensor])
    gain = gates["model.16"].gain
    height, width = gain.shape
    inside = [
        (shot.boxes[0][0] <= (x + 0.5) / width < shot.boxes[0][2])  # type: ignore[index]
        and (shot.boxes[0][1] <= (y + 0.5) / height < shot.boxes[0][3])  # type: ignore[index]
        for y in range(height)
        for x in range(width)
    ]
    assert 0 < sum(inside) < len(inside)
    assert entry.objects == pytest.approx(gain.flatten()[torch.tensor(inside)].mean().item())


def test_a_checkpoint_with_labels_and_without(
    trained: Path, pictures: list[Path], tmp_path: Path
) -> None:
    alone, empty = tmp_path / "görüntü 図.png", as_set(tmp_path, Image.new("RGB", (50, 90)), "")
    Image.open(pictures[0]).save(alone)
    found = look_at(trained / "weights" / "best.pt", [*pictures[:2], alone, empty], tmp_path / "o")
    assert [entry.block for entry in found] == PLACES * 4
    assert [entry.note for entry in found[::3]] == ["", "", "no labels", "no objects in its labels"]
    assert all(entry.objects > 0.2 and entry.background > 0.2 for entry in found[:6])
    assert found[6].image == "görüntü 図.png"
    assert found[6].gain == found[0].gain  # imgsz is the training's
    for entry in found:
        assert (tmp_path / "o" / entry.file).stat().st_size <= 25_000
    assert str(tmp_path) not in (tmp_path / "o" / "pictures.json").read_text(encoding="utf-8")


def test_a_model_in_memory_is_left_as_it_was(
    model: Any, pictures: list[Path], tmp_path: Path
) -> None:
    network = model.model.train()
    keys = {name: value.clone() for name, value in network.state_dict().items()}
    attributes = {key: id(value) for key, value in vars(network.model[-1]).items()}
    numbers, words = torch.get_rng_state(), np.random.get_state()[1].tolist()
    look_at(model, pictures[0], tmp_path)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert np.random.get_state()[1].tolist() == words
    assert all(module.training for module in network.modules())
    assert {key: id(value) for key, value in vars(network.model[-1]).items()} == attributes
    assert all(torch.equal(value, keys[name]) for name, value in network.state_dict().items())


def test_images_of_one_name_are_told_apart(model: Any, tmp_path: Path) -> None:
    files = [as_set(tmp_path / word, Image.new("RGB", (64, 64)), None) for word in "ab"]
    found = look_at(model, [*files, files[0]], tmp_path / "out", imgsz=64)
    assert [entry.image for entry in found] == ["a/images/a.png", "b/images/a.png"]
    assert len({entry.file for entry in found}) == 2
    assert names_of([]) == []


@pytest.mark.parametrize(
    ("row", "task", "box"),
    [
        ("0 0.5 0.5 0.2 0.4", "detect", (0.4, 0.3, 0.6, 0.7)),
        ("0 0.1 0.2 0.3 0.2 0.2 0.6", "segment", (0.1, 0.2, 0.3, 0.6)),
        ("0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6", "obb", (0.1, 0.2, 0.3, 0.6)),
        ("0 0.5 0.5 0.2 0.4 0.9 0.9 2 0.1 0.1 1", "pose", (0.4, 0.3, 0.6, 0.7)),
    ],
)
def test_the_rows_of_each_task(row: str, task: str, box: tuple[float, ...], tmp_path: Path) -> None:
    file = as_set(tmp_path, Image.new("RGB", (8, 8)), f"{row}\n\n")
    found = labelled(file, task)
    assert found is not None
    assert found[0] == pytest.approx(box)


@pytest.mark.parametrize("row", ["0 0.5", "cat 1 2", "0 a b c d", "0 nan 0.5 0.1 0.1", "0 1 2 3"])
def test_a_row_that_is_none_is_named(row: str, model: Any, tmp_path: Path) -> None:
    file = as_set(tmp_path, Image.new("RGB", (8, 8)), f"0 0.5 0.5 0.1 0.1\n{row}\n")
    with pytest.raises(UsageError, match=r"a\.txt, line 2: .*expected a class"):
        look_at(model, [file], tmp_path / "out")


@pytest.mark.parametrize("row", ["0 40 30 20 10", "0 0.1 0.1 0.5 0.1 0.5 64"])
def test_a_row_in_pixels_is_named(row: str, model: Any, tmp_path: Path) -> None:
    file = as_set(tmp_path, Image.new("RGB", (8, 8)), f"{row}\n")
    with pytest.raises(UsageError, match=r"a\.txt, line 1: .*expected shares of the image"):
        look_at(model, [file], tmp_path / "out")


def test_what_is_no_image_or_no_checkpoint_is_said_in_a_line(
    model: Any, trained: Path, tmp_path: Path
) -> None:
    text, image = tmp_path / "notes.jpg", tmp_path / "a.png"
    text.write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.new("RGB", (32, 32)).save(image)
    (tmp_path / "text.pt").write_text("no checkpoint")
    plain = tmp_path / "plain.pt"
    YOLO("yolo11n.yaml").save(plain)
    for given, images, said in (
        (model, [tmp_path / "none.jpg"], r"none\.jpg: no such image; expected"),
        (model, [tmp_path], r"a folder; expected image files, such as .*/\*\.jpg"),
        (model, [3], "images has 3: expected paths"),
        (model, [], "no images; expected"),
        (model, [text], r"notes\.jpg: not an image that can be read"),
        (model, [tmp_path / "empty.png"], "not an image that can be read"),
        (tmp_path / "none.pt", [image], r"none\.pt: no such checkpoint; expected best\.pt"),
        ("yolo11n.pt", [image], "no such checkpoint"),
        (tmp_path / "text.pt", [image], "is no model to look into"),
        (image, [image], r"a\.png: not a \.pt; expected best\.pt"),
        (plain, [image], r"plain\.pt: no blocks in it"),
        (3, [image], "3: no such checkpoint"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            look_at(given, images, tmp_path / "out")
        assert "\n" not in str(caught.value)
    for size in (-3, 0, True, "640", [64, 64]):
        with pytest.raises(UsageError, match=r"imgsz=.*: expected a number of pixels"):
            look_at(model, [image], tmp_path / "out", imgsz=size)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


# In a training.


def of_run(folder: Path) -> list[Picture]:
    problems: list[str] = []
    found = read_pictures(folder / "coordcbam", problems)
    assert problems == []
    return found


def test_a_training_has_before_and_after_for_each_block(trained: Path) -> None:
    found = of_run(trained)
    assert len(found) == 2 * looking.IMAGES * len(PLACES)
    for stage in ("before", "after"):
        assert {(p.image, p.block) for p in found if p.stage == stage} == {
            (f"{i:05}.png", place) for i in range(looking.IMAGES) for place in PLACES
        }
    assert all(p.objects > 0 and p.background > 0 and p.note == "" for p in found)
    assert all((trained / "coordcbam" / p.file).stat().st_size <= 25_000 for p in found)


def test_after_is_what_best_does(trained: Path, trained_data: Path, tmp_path: Path) -> None:
    images = [trained_data.parent / "images/val" / f"{i:05}.png" for i in range(looking.IMAGES)]
    now = {(p.image, p.block): p for p in look_at(trained / "weights/best.pt", images, tmp_path)}
    before = {(p.image, p.block): p for p in of_run(trained) if p.stage == "before"}
    after = {(p.image, p.block): p for p in of_run(trained) if p.stage == "after"}
    for key, entry in now.items():
        assert entry.gain == pytest.approx(after[key].gain, abs=1e-5)
        assert entry.objects == pytest.approx(after[key].objects, abs=1e-5)
    assert any(abs(before[k].gain[1] - after[k].gain[1]) > 0.0005 for k in now)


def trained_with(settings: dict[str, Any], name: str, **insert: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = YOLO("yolo11n.yaml")
    model.insert("P3", cc.BlockConfig.step2(), **insert)
    model.train(**{**settings, "name": name, "epochs": 2})
    held = torch.load(model.trainer.last, map_location="cpu", weights_only=False)
    state: dict[str, torch.Tensor] = held["model"].state_dict()
    return {**state, "next number": torch.rand(1)}


@pytest.mark.long
def test_a_training_is_the_same_with_and_without_pictures(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = trained_with(settings, "with")
    monkeypatch.setattr(looking, "_draw", lambda *_: None)
    other = trained_with(settings, "without")
    assert len(of_run(tmp_path / "with")) == 2 * looking.IMAGES
    assert of_run(tmp_path / "without") == []
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_goes_wrong_with_pictures_is_a_line_in_the_log(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", said.append)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of paint\nand more")

    monkeypatch.setattr(looking, "look", fails)
    trained_with({**settings, "exist_ok": True}, "run")
    lines = [line for line in said if "out of paint" in line]
    assert lines == [
        "coordcbam draws no pictures before this training: out of paint and more",
        "coordcbam draws no pictures after this training: out of paint and more",
    ]
    assert of_run(tmp_path / "run") == []
    assert '"finished"' in (tmp_path / "run" / "coordcbam" / "run.json").read_text()


def test_a_new_training_in_an_old_folder_forgets_its_pictures(
    settings: dict[str, Any], stopping_at: Any, tmp_path: Path
) -> None:
    trained_with({**settings, "exist_ok": True}, "run")
    assert {p.stage for p in of_run(tmp_path / "run")} == {"before", "after"}
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    with stopping_at(model, "on_train_batch_end", 1):
        model.train(**{**settings, "exist_ok": True, "name": "run"})
    found = of_run(tmp_path / "run")
    assert {p.stage for p in found} == {"before"}
    assert all(p.gain == (1.0, 1.0, 1.0) for p in found)  # step 3 starts as the identity


def test_a_resumed_training_keeps_what_its_first_start_has_drawn(
    settings: dict[str, Any], stopping_at: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = YOLO("yolo11n.yaml")
    model.insert("P3", cc.BlockConfig.step2())
    with stopping_at(model, "on_train_epoch_end", 2):
        model.train(**{**settings, "epochs": 2})
    first = of_run(tmp_path / "run")
    assert {p.stage for p in first} == {"before"}
    YOLO(tmp_path / "run/weights/last.pt").train(resume=True)
    found = of_run(tmp_path / "run")
    assert found[: len(first)] == first
    assert [p.stage for p in found[len(first) :]] == ["after"] * looking.IMAGES


def test_no_pictures_of_blocks_that_are_not_watched(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    trained_with(settings, "run", monitor=False)
    assert not (tmp_path / "run" / "coordcbam").exists()


def test_only_images_with_objects_are_drawn(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = digits(DigitsConfig(train=16, val=6), root=tmp_path / "set")
    for name in ("00000", "00002", "00003", "00004"):
        (data.parent / "labels/val" / f"{name}.txt").write_text("")
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    model.train(**{**settings, "data": str(data)})
    found = of_run(tmp_path / "run")
    assert {p.image for p in found} == {"00001.png", "00005.png"}


def test_grey_networks_take_grey_images(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 1, 1)
    network.stride, network.yaml = torch.tensor([32]), {"channels": 1}  # type: ignore[assignment]
    file = as_set(tmp_path, painted((64, 64), (0, 0, 64, 64)), None)
    sight = host._sight(host.BasePredictor, network, "detect", 64)
    shot = _shot("a", str(file), None, sight)
    assert shot.tensor.shape == (1, 1, 64, 64)
    grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert shot.tensor[0, 0, 5, 5].item() == pytest.approx(grey[5, 5] / 255)
