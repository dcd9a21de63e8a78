"""Model files with blocks as rows: what they say, what they build, and whose weights they get."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import coordcbam as cc
from _support.yolo_batch import model_of, step
from coordcbam._support.errors import UsageError
from coordcbam.hosts.ultralytics import YOLO, load_pretrained, write_model
from coordcbam.hosts.yolo.row import CoordCBAMLayer, options_of
from coordcbam.hosts.yolo.rows import with_rows
from coordcbam.hosts.yolo.transfer import align, compare
from coordcbam.insert import Foreign, attached

X = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))

SMALL = {
    "backbone": [[-1, 1, "A", []], [-1, 1, "B", []], [-2, 1, "C", []], [-1, 1, "D", []]],
    "head": [[[-1, 1], 1, "Concat", [1]], [1, 1, "E", []], [[4, -1], 1, "Detect", ["nc"]]],
    "scales": {"n": [1, 1, 1], "s": [1, 2, 1]},
    "scale": "s",
    "yaml_file": "x.yaml",
    "nc": 3,
}


def sources(recipe: Any) -> list[Any]:
    return [row[0] for part in ("backbone", "head") for row in recipe[part]]


def shaken(name: str) -> Any:
    """A network all of whose tensors are its own."""
    torch.manual_seed(0)
    model = model_of(name)
    with torch.no_grad():
        for value in model.model.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.1 * torch.rand_like(value)).add_(1e-3 * torch.rand_like(value))
    return model


# --- what a file says -----------------------------------------------------------------------------


def test_everyone_who_read_a_place_reads_its_block() -> None:
    new, index_of = with_rows(SMALL, [1, 3], {"preset": "step2"})
    assert index_of == {0: 0, 1: 1, 2: 3, 3: 4, 4: 6, 5: 7, 6: 8}
    # B's block is 2, D's block is 5.
    assert sources(new) == [-1, -1, -1, 0, -1, -1, [5, 2], 2, [6, 7]]
    assert new["backbone"][2] == [-1, 1, "CoordCBAMLayer", ["ch", "f", {"preset": "step2"}]]
    assert new["scales"] == {"s": [1, 2, 1]}
    assert set(new) == {"backbone", "head", "scales", "nc"}


def test_without_redirection_only_the_row_behind_it_reads_the_block() -> None:
    new, _ = with_rows(SMALL, [2, 3], {}, redirect=False)
    assert sources(new) == [-1, -1, 0, -1, -1, -1, [5, 1], 1, [6, 7]]


def test_a_block_that_nobody_would_read_is_refused() -> None:
    with pytest.raises(UsageError, match="nobody would read the block behind layer 1"):
        with_rows(SMALL, [1, 3], {}, redirect=False)


def test_the_source_is_left_alone() -> None:
    before = yaml.safe_dump(SMALL)
    with_rows(SMALL, [0, 1, 2], {"preset": "step3"})
    assert yaml.safe_dump(SMALL) == before


@pytest.mark.parametrize(
    ("block", "options"),
    [
        (cc.BlockConfig.step3(), {"preset": "step3"}),
        (cc.BlockConfig.step1(), {"preset": "step1"}),
        (cc.BlockConfig.step2(beta_ca=0.5), {"preset": "step2", "beta_ca": 0.5}),
        (Foreign.of("timm:se"), {"block": "timm:se"}),
        (Foreign.of("timm:se", {"rd_ratio": 0.5}, 0.9), None),
    ],
)
def test_options_are_short_and_make_the_same_block(block: Any, options: Any) -> None:
    found = options_of(block, monitor=False)
    assert options is None or found == {**options, "monitor": False}
    made = CoordCBAMLayer([4, 16], 1, yaml.safe_load(yaml.safe_dump(found))).ccattn
    if isinstance(block, Foreign):
        assert type(made.inner).__name__ in {"SEModule", "Guard"}
        return
    assert made.config == block
    assert made.monitor is False


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([8], [0], {}), "the row to read one layer"),
        ((8, 0, {}), r"begin with \[\"ch\", \"f\""),
        (([8], 0, {"presett": "step3"}), "presett"),
        (([8], 0, {"preset": "step9"}), "preset 'step9'"),
        (([8], 0, {"monitor": "yes"}), "monitor='yes'"),
        (([8], 0, {"block": "timm:se", "beta_ca": 1}), "with a block, expected"),
        (([8], 0, 3), "expected a mapping"),
    ],
)
def test_bad_rows_say_what_is_wrong(arguments: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        CoordCBAMLayer(*arguments)
    assert "\n" not in str(caught.value)


# --- what it builds -------------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", [True, False])
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("yolo11n.yaml", "P3,P4,P5"),
        ("yolov8s.yaml", "backbone"),
        ("yolo12n.yaml", "0,4"),
        ("yolo26n-seg.yaml", "neck"),
        ("yolov8n-cls.yaml", "2"),
        ("rtdetr-l.yaml", "P3,P5"),
    ],
)
def test_fresh_blocks_change_nothing_once_the_weights_are_there(
    name: str, at: str, redirect: bool, tmp_path: Path
) -> None:
    source = shaken(name)
    out = tmp_path / "exp2n" / name.replace(".yaml", "-coordcbam.yaml")
    out.parent.mkdir()
    planned = write_model(source, out, at, redirect=redirect)
    made = YOLO(out)
    told = load_pretrained(made, source.model)
    total = len(source.model.state_dict())
    assert (told.kept, told.total, told.wrong, told.other) == (total, total, 0, ())
    assert len(cc.blocks(made.model)) == len(planned.rows)
    assert type(made) is type(source)
    with torch.no_grad():
        ours, theirs = made.model.eval()(X), source.model.eval()(X)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "name",
    ["yolo11n", "yolo11n-seg", "yolo11n-pose", "yolo11n-obb", "yolo11n-cls", "yolo26n"],
)
@pytest.mark.parametrize("route", ["rows", "hook"])
def test_a_step_of_every_task(name: str, route: str, tmp_path: Path) -> None:
    model = model_of(f"{name}.yaml")
    place = "4" if name.endswith("cls") else "P3,P5"
    if route == "rows":
        write_model(model, tmp_path / f"{name}-cc.yaml", place)
        model = YOLO(tmp_path / f"{name}-cc.yaml")
    else:
        model.insert(place)
    before = {path: block.ca.fc2.weight.clone() for path, block in cc.blocks(model.model)}
    loss = step(model.model, model.task)
    assert math.isfinite(loss)
    assert before
    for path, block in cc.blocks(model.model):
        assert block.updates == 1
        assert not torch.equal(block.ca.fc2.weight, before[path])


def test_the_class_count_and_the_scale_are_the_sources(tmp_path: Path) -> None:
    source = YOLO("yolo11s.yaml")
    source.model.yaml["nc"] = 10
    write_model(source, tmp_path / "mine.yaml", "P4")  # no scale in this name
    made = YOLO(tmp_path / "mine.yaml")
    assert made.model.yaml["nc"] == 10
    width = source.model.model[16].cv2.conv.out_channels
    assert made.model.model[16].cv2.conv.out_channels == width


def test_a_plain_yolo_reads_it_in_a_fresh_process(tmp_path: Path, fresh_process: Any) -> None:
    write_model(YOLO("yolo11n.yaml"), tmp_path / "yolo11n-cc.yaml", "P3")
    code = """
        import sys
        import ultralytics
        import coordcbam.hosts.ultralytics
        model = ultralytics.YOLO(sys.argv[1])
        print(type(model.model.model[17]).__name__)
    """
    assert "CoordCBAMLayer" in fresh_process(code, tmp_path / "yolo11n-cc.yaml")


@pytest.mark.long
def test_trained_rows_survive_a_checkpoint(
    tmp_path: Path, settings: dict[str, Any], fresh_process: Any
) -> None:
    write_model(YOLO("yolo11n.yaml"), tmp_path / "yolo11n-cc.yaml", "P3,P4")
    model = YOLO(tmp_path / "yolo11n-cc.yaml")
    model.train(**settings)
    best = tmp_path / "run" / "weights" / "best.pt"
    code = """
        import sys
        from ultralytics import YOLO
        network = YOLO(sys.argv[1]).model
        import coordcbam as cc
        print([(path, block.updates.item() > 0) for path, block in cc.blocks(network)])
    """
    told = fresh_process(code, best)
    assert "[('model.17.ccattn', True), ('model.21.ccattn', True)]" in told
    assert "coordcbam/model.17/r_ema" in (tmp_path / "run" / "results.csv").read_text()


# --- whose weights it gets ------------------------------------------------------------------------


@pytest.fixture
def with_rows_in_front(tmp_path: Path) -> Any:
    write_model(YOLO("yolo11n.yaml"), tmp_path / "yolo11n-cc.yaml", "0,4,P3")
    return YOLO(tmp_path / "yolo11n-cc.yaml")


def test_naive_loading_would_lose_most_and_mix_some(with_rows_in_front: Any) -> None:
    """The control: this is what happens without the layers matched."""
    from ultralytics.utils.torch_utils import intersect_dicts

    source = shaken("yolo11n.yaml").model
    network = with_rows_in_front.model
    naive = intersect_dicts(source.state_dict(), network.state_dict())
    assert len(naive) < 100
    network.load_state_dict(naive, strict=False)
    assert compare(source, network).wrong > 5
    told = load_pretrained(with_rows_in_front, source)
    assert (told.kept, told.moved > 400) == (499, True)


def test_another_class_count_is_told(tmp_path: Path) -> None:
    source = shaken("yolo11n.yaml")
    other = YOLO("yolo11n.yaml")
    other.model.yaml["nc"] = 5
    write_model(other, tmp_path / "yolo11n-cc.yaml", "P3")
    told = load_pretrained(YOLO(tmp_path / "yolo11n-cc.yaml"), source.model)
    # As many as Ultralytics keeps where no row was added.
    plain = type(source.model)(other.model.yaml, verbose=False)
    plain.load(source.model)
    kept = compare(source.model, plain).kept
    assert (told.wrong, told.kept) == (0, kept)
    assert 0 < told.total - kept < 60
    assert str(told).endswith(f"{told.total - kept} new (model.24: another class count?)")


def test_our_yolo_loads_by_layer_and_trains_from_that(
    with_rows_in_front: Any, tmp_path: Path, settings: dict[str, Any], stopping_at: Any
) -> None:
    source = shaken("yolo11n.yaml")
    source.save(tmp_path / "source.pt")
    equal: list[int] = []

    def look(trainer: Any) -> None:
        here = trainer.model.state_dict()
        index_of = align(source.model, trainer.model)
        for key, value in source.model.state_dict().items():
            _, index, rest = key.split(".", 2)
            new = here[f"model.{index_of[int(index)]}.{rest}"]
            # A checkpoint holds half precision.
            equal.append(new.shape == value.shape and torch.equal(new, value.half().float()))

    with_rows_in_front.load(tmp_path / "source.pt")
    with_rows_in_front.add_callback("on_train_start", look)
    with stopping_at(with_rows_in_front, "on_train_start", 1):
        with_rows_in_front.train(**{**settings, "single_cls": False})
    # The digits have ten classes: the class branch, or the end of it, is new.
    assert len(equal) == 499
    assert 499 - 60 < sum(equal) < 499


def test_pretrained_is_by_layer_too(
    with_rows_in_front: Any, tmp_path: Path, settings: dict[str, Any], stopping_at: Any
) -> None:
    source = shaken("yolo11n.yaml")
    source.save(tmp_path / "source.pt")
    kept: list[Any] = []
    with_rows_in_front.add_callback(
        "on_train_start",
        lambda t: kept.append(
            torch.equal(
                t.model.model[2].conv.weight, source.model.model[1].conv.weight.half().float()
            )
        ),
    )
    with stopping_at(with_rows_in_front, "on_train_start", 1):
        with_rows_in_front.train(**settings, pretrained=str(tmp_path / "source.pt"))
    assert kept == [True]


def test_blocks_go_from_rows_to_rows_and_are_not_lost_in_silence(tmp_path: Path) -> None:
    write_model(YOLO("yolo11n.yaml"), tmp_path / "yolo11n-a.yaml", "P3,P4")
    write_model(YOLO("yolo11n.yaml"), tmp_path / "yolo11n-b.yaml", "0,P3,P4")
    source, target = YOLO(tmp_path / "yolo11n-a.yaml"), YOLO(tmp_path / "yolo11n-b.yaml")
    with torch.no_grad():
        cc.blocks(source.model)[1][1].ca.fc2.weight.fill_(0.5)
    told = load_pretrained(target, source.model)
    assert told.kept == told.total
    assert bool((cc.blocks(target.model)[2][1].ca.fc2.weight == 0.5).all())
    with pytest.raises(RuntimeError, match=r"blocks at model\.1, this network has not"):
        load_pretrained(source, target.model)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at", "text"),
    [
        ("yolo11s-cc.yaml", "P3", "reads scale 's' in this name, the model has 'n'"),
        ("cc.txt", "P3", "ends with .yaml"),
        ("cc.yaml", "P9", "no place 'P9'"),
        ("cc.yaml", "23", "no place '23'"),
        ("nowhere/cc.yaml", "P3", "cannot be written"),
    ],
)
def test_nothing_is_written(name: str, at: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        write_model(YOLO("yolo11n.yaml"), tmp_path / name, at)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_blocks_is_refused(tmp_path: Path) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    with pytest.raises(UsageError, match="has a block already"):
        write_model(model, tmp_path / "yolo11n-cc.yaml", "P4")
    assert attached(model.model) == ["model.16"]
