"""A plain ``ultralytics.YOLO``: every route keeps the blocks or stops with one clear line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics

import coordcbam as cc
from coordcbam.hosts.ultralytics import YOLO
from coordcbam.hosts.watched import LostBlocksError


def test_our_checkpoint_predicts_validates_and_trains_with_its_blocks(
    trained: Path,
    trained_data: Path,
    pictures: list[Path],
    settings: dict[str, Any],
    calls: Any,
) -> None:
    plain = ultralytics.YOLO(trained / "weights" / "best.pt")
    plain.predict(pictures[0], imgsz=128, device="cpu")
    assert calls.eval >= 3
    calls.eval = 0
    common = {"imgsz": 128, "device": "cpu", "workers": 0, "plots": False, "single_cls": True}
    plain.val(data=str(trained_data), project=settings["project"], name="val", **common)
    assert calls.eval >= 3
    before = {path for path, _ in cc.blocks(plain.model)}
    plain.train(**settings)
    assert calls.train == 3 * 2
    assert {path for path, _ in cc.blocks(plain.model)} == before
    again = ultralytics.YOLO(Path(settings["project"], "run", "weights", "last.pt"))
    assert len(cc.blocks(again.model)) == 3


def test_inserted_into_a_loaded_checkpoint(
    settings: dict[str, Any], tmp_path: Path, calls: Any
) -> None:
    YOLO("yolo11n.yaml").save(tmp_path / "bare.pt")
    plain = ultralytics.YOLO(tmp_path / "bare.pt")
    cc.insert_(plain.model, "model.16", inputs=torch.zeros(1, 3, 64, 64))
    calls.train = 0
    plain.train(**settings)
    assert calls.train == 2
    assert [path for path, _ in cc.blocks(plain.model)] == ["model.16.ccattn"]


IMPORT_ORDER = """
import json, sys
{imports}
import torch
model = YOLO("bare.pt")
insert_(model.model, "model.16", inputs=torch.zeros(1, 3, 64, 64))
def stop(trainer):
    print("blocks", sum(type(m).__name__ == "CoordCBAM" for m in trainer.model.modules()))
    raise SystemExit
model.add_callback("on_train_start", stop)
model.train(**json.loads(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "from coordcbam import insert_\nfrom ultralytics import YOLO",  # as isort sorts them
        "from coordcbam.insert import insert_\nfrom ultralytics import YOLO",
    ],
    ids=["ours first", "from the room"],
)
def test_the_order_of_imports_does_not_matter(
    imports: str, settings: dict[str, Any], tmp_path: Path, fresh_process: Callable[..., str]
) -> None:
    YOLO("yolo11n.yaml").save(tmp_path / "bare.pt")
    said = fresh_process(IMPORT_ORDER.format(imports=imports), json.dumps(settings))
    assert "blocks 1" in said


def test_weights_with_blocks_into_a_network_without_them_is_one_clear_line(trained: Path) -> None:
    weights = trained / "weights" / "best.pt"
    for kind in (ultralytics.YOLO, YOLO):
        model = kind("yolo11n.yaml")
        before = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
        with pytest.raises(LostBlocksError) as caught:
            model.load(weights)
        text = str(caught.value)
        assert "\n" not in text
        assert "model.16, model.19, model.22" in text
        assert "insert" in text
        after = model.model.state_dict()
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_weights_with_blocks_into_a_network_with_them(trained: Path) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3,P4,P5", cc.BlockConfig.step2())
    model.load(trained / "weights" / "best.pt")
    source = YOLO(trained / "weights" / "best.pt").model.state_dict()
    after = model.model.state_dict()
    ours = [key for key in after if ".ccattn." in key]
    assert ours
    assert all(torch.equal(after[key].float(), source[key].float()) for key in ours)


def test_plain_weights_into_a_network_with_blocks_keeps_them(tmp_path: Path) -> None:
    bare = YOLO("yolo11n.yaml")
    bare.save(tmp_path / "bare.pt")
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    model.load(tmp_path / "bare.pt")
    assert len(cc.blocks(model.model)) == 1
    wanted = YOLO(tmp_path / "bare.pt").model.state_dict()
    assert all(
        torch.equal(model.model.state_dict()[key].float(), tensor.float())
        for key, tensor in wanted.items()
    )


def test_a_checkpoint_fine_tuned_after_remove_has_no_blocks(
    trained: Path, settings: dict[str, Any], calls: Any
) -> None:
    model = YOLO(trained / "weights" / "best.pt")
    model.remove()
    model.train(**settings)
    assert cc.blocks(model.model) == []
    assert calls.train == calls.eval == 0
    assert not Path(settings["project"], "run", "coordcbam").exists()


def test_a_spec_of_a_newer_version_stops_the_builder() -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    recipe = dict(model.model.yaml)
    recipe["coordcbam"] = [{**recipe["coordcbam"][0], "version": 99}]
    with pytest.raises(ValueError, match="99"):
        type(model.model)(recipe, verbose=False)
