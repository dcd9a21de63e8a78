"""Training with blocks: they run, their weights arrive, and the run leaves complete records."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import coordcbam as cc
from coordcbam.hosts import ultralytics as host
from coordcbam.hosts.ultralytics import YOLO
from coordcbam.records import read_run

LOGGED = ("r_out_pre", "r_ema", "alpha_eff")
PLACES = ["model.16", "model.19", "model.22"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(file)]


def blocks_in(path: Path) -> list[str]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    network = checkpoint["ema"] if checkpoint.get("model") is None else checkpoint["model"]
    return [place for place, _ in cc.blocks(network)]


# The shared, trained run: what one whole training leaves.


def test_blocks_are_in_both_checkpoints(trained: Path) -> None:
    for name in ("best.pt", "last.pt"):
        assert blocks_in(trained / "weights" / name) == [f"{place}.ccattn" for place in PLACES]


def test_the_run_folder_is_complete(trained: Path) -> None:
    folder = trained / "coordcbam"
    info = json.loads((folder / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["host"] == "ultralytics"
    assert [place["path"] for place in info["places"]] == PLACES
    assert info["config"]["preset"] == "step2"
    assert set(info["versions"]) >= {"coordcbam", "torch", "python", "ultralytics"}
    assert set(info["result"]) >= {"mAP50", "mAP50-95"}
    assert (folder / "events.jsonl").exists()
    page = (folder / "report.html").read_text()
    assert all(place in page for place in PLACES)

    run = read_run(trained)
    assert run.problems == ()
    assert len(run.metrics) == 12
    assert [row["epoch"] for row in run.metrics] == list(range(12))
    # 12 steps an epoch: a reading at every step, a row for each block.
    assert run.series("model.16", "r_ema")[0] == list(range(144))
    assert all(row.values[name] > 0 for row in run.monitor for name in LOGGED)


def test_the_average_moved_and_the_checkpoint_has_it(trained: Path) -> None:
    for place in PLACES:
        _, values = read_run(trained).series(place, "r_ema")
        assert 0.9 < values[0] < 1.0
        assert values[-1] < 0.95
    best = YOLO(trained / "weights" / "best.pt")
    assert all(0.4 < block.r_ema.item() < 0.95 for _, block in cc.blocks(best.model))


def test_results_csv_has_the_columns_from_the_first_epoch_and_no_row_more(trained: Path) -> None:
    lines = (trained / "results.csv").read_text().splitlines()
    assert len(lines) == 13
    assert len({len(line.split(",")) for line in lines}) == 1
    rows = rows_of(trained / "results.csv")
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 13)]
    for row in rows:
        for place in PLACES:
            for name in LOGGED:
                assert 0 < float(row[f"coordcbam/{place}/{name}"]) <= 1


def test_results_csv_has_the_live_numbers(trained: Path) -> None:
    """The checkpoint holds a smoothed average in half precision; the columns must not."""
    run = read_run(trained)
    live = dict(zip(*run.series("model.16", "r_ema"), strict=True))
    for epoch, row in enumerate(rows_of(trained / "results.csv")):
        assert float(row["coordcbam/model.16/r_ema"]) == pytest.approx(
            live[epoch * 12 + 11], rel=1e-4
        )


def test_tensorboard_has_the_columns(trained: Path) -> None:
    pytest.importorskip("tensorboard")
    files = list(trained.glob("events.out.tfevents.*"))
    assert files
    raw = b"".join(path.read_bytes() for path in files)
    for place in PLACES:
        for name in LOGGED:
            assert f"coordcbam/{place}/{name}".encode() in raw


def test_the_checkpoint_pickles_only_permanent_names(trained: Path) -> None:
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    best = trained / "weights" / "best.pt"
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(best)
    finally:
        torch.serialization.add_safe_globals(allowed)
    ours = {n for n in names if not n.startswith(("torch.", "ultralytics.", "builtins."))}
    assert "coordcbam.CoordCBAM" in ours
    assert all(name.rpartition(".")[0] == "coordcbam" for name in ours), ours
    assert all(hasattr(cc, name.rpartition(".")[2]) for name in ours)
    assert not {"builtins.getattr", "builtins.eval"} & set(names)


def test_the_recipe_in_the_checkpoint_is_plain(trained: Path) -> None:
    recipe = YOLO(trained / "weights" / "best.pt").model.yaml
    (spec,) = recipe["coordcbam"]
    assert yaml.safe_load(yaml.safe_dump(spec)) == spec
    assert json.loads(json.dumps(spec)) == spec
    assert [place["path"] for place in spec["places"]] == PLACES


def test_a_large_validation_adds_nothing_to_a_checkpoint(best: Any, tmp_path: Path) -> None:
    best.save(tmp_path / "before.pt")
    with torch.no_grad():
        best.model.float().eval()(torch.rand(4, 3, 320, 320))
    best.model.train()(torch.rand(2, 3, 320, 320))
    best.model.zero_grad(set_to_none=True)
    best.save(tmp_path / "after.pt")
    sizes = [(tmp_path / name).stat().st_size for name in ("before.pt", "after.pt")]
    # Ultralytics' own head keeps its anchors: 2 and 1 numbers for each of 2,100 cells.
    assert sizes[1] - sizes[0] < 40_000


# Short runs.


def test_blocks_run_in_train_val_and_predict(
    settings: dict[str, Any], calls: Any, pictures: list[Path]
) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3,P5")
    seen: dict[str, int] = {}
    model.add_callback("on_train_start", lambda _: seen.update(eval=calls.eval, train=calls.train))
    model.add_callback("on_train_epoch_end", lambda _: seen.update(trained=calls.train))
    model.train(**settings)
    assert seen["trained"] - seen["train"] == 2 * 2  # blocks x steps
    assert calls.eval > seen["eval"]  # validation, within train
    calls.eval = 0
    model.val(data=settings["data"], imgsz=128, device="cpu", workers=0, plots=False)
    assert calls.eval >= 2
    calls.eval = 0
    model.predict(pictures[0], imgsz=128, device="cpu")
    assert calls.eval >= 2
    assert [path for path, _ in cc.blocks(model.model)] == ["model.16.ccattn", "model.22.ccattn"]


def test_weights_in_memory_arrive_in_training(
    settings: dict[str, Any], stopping_at: Callable[..., Any]
) -> None:
    """Ultralytics rebuilds the network: what it had learned before must come along, blocks too."""
    base = YOLO("yolo11n.yaml")
    base.model = type(base.model)("yolo11n.yaml", nc=10, verbose=False)
    base.insert("P3,P4,P5")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in base.model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    wanted = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    found: dict[str, torch.Tensor] = {}
    base.add_callback(
        "on_train_start",
        lambda trainer: found.update({k: v.clone() for k, v in trainer.model.state_dict().items()}),
    )
    with stopping_at(base, "on_train_start", 1):
        base.train(**settings)
    assert found.keys() == wanted.keys()
    different = [key for key, tensor in wanted.items() if not torch.equal(found[key], tensor)]
    assert different == []


def test_two_insertions_with_their_own_options_survive(settings: dict[str, Any]) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3", cc.BlockConfig.step1())
    model.insert("backbone", cc.BlockConfig.from_notebook(beta_ca=0.6))
    model.train(**settings)
    found = {path: block.config for path, block in cc.blocks(model.model)}
    assert list(found) == [f"model.{index}.ccattn" for index in (4, 6, 10, 16)]
    assert found["model.16.ccattn"] == cc.BlockConfig.step1()
    assert found["model.6.ccattn"] == cc.BlockConfig.from_notebook(beta_ca=0.6)
    rows = rows_of(Path(settings["project"], "run", "results.csv"))
    assert math.isnan(float(rows[0]["coordcbam/model.16/r_ema"]))  # step 1 has none
    assert float(rows[0]["coordcbam/model.6/r_ema"]) < 1


def test_monitor_off_stays_off(settings: dict[str, Any], stopping_at: Callable[..., Any]) -> None:
    """insert(monitor=False) is the user's word: a host that measures anyway changes training."""
    model = YOLO("yolo11n.yaml")
    model.insert("P3", monitor=False)
    seen: list[bool] = []
    model.add_callback(
        "on_train_epoch_start",
        lambda t: seen.extend(block.monitor for _, block in cc.blocks(t.model)),
    )
    with stopping_at(model, "on_train_batch_start", 1):
        model.train(**settings)
    assert seen == [False]


def test_a_run_without_blocks_writes_nothing_of_ours(settings: dict[str, Any]) -> None:
    model = YOLO("yolo11n.yaml")
    model.train(**settings)
    folder = Path(settings["project"], "run")
    assert (folder / "results.csv").exists()
    assert not (folder / "coordcbam").exists()
    assert "coordcbam" not in (folder / "results.csv").read_text()


def test_a_run_that_raises_is_recorded_as_failed(
    settings: dict[str, Any], stopping_at: Callable[..., Any]
) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    with stopping_at(model, "on_train_batch_start", 4):  # in the second epoch
        model.train(**{**settings, "epochs": 3})
    run = read_run(Path(settings["project"], "run"))
    assert run.info.status == "failed"
    assert run.problems == ()
    assert run.series("model.16", "r_out_pre")[0] == [0, 1, 2]
    assert [row["epoch"] for row in run.metrics] == [0]


def test_an_early_stop_is_a_whole_run(settings: dict[str, Any]) -> None:
    """Ultralytics ends such an epoch earlier: the last checkpoint and row are still complete."""
    model = YOLO("yolo11n.yaml")
    model.insert("P3")

    def stop_in_the_second_epoch(trainer: Any) -> None:
        class Stopper(type(trainer.stopper)):  # type: ignore[misc]
            def __call__(self, epoch: int, fitness: float) -> bool:
                return epoch >= 2

        trainer.stopper.__class__ = Stopper

    model.add_callback("on_train_start", stop_in_the_second_epoch)
    model.train(**{**settings, "epochs": 5})
    save_dir = Path(settings["project"], "run")
    run = read_run(save_dir)
    assert (run.info.status, run.problems) == ("finished", ())
    epochs = [row["epoch"] for row in run.metrics]
    assert epochs[:2] == [0, 1]
    assert len(epochs) < 5
    rows = rows_of(save_dir / "results.csv")
    assert len(rows) == len(epochs)
    assert all(row["coordcbam/model.16/r_out_pre"] for row in rows)
    assert run.series("model.16", "r_out_pre")[0] == list(range(2 * len(epochs)))
    assert all(
        blocks_in(save_dir / "weights" / f"{w}.pt") == ["model.16.ccattn"] for w in ("best", "last")
    )


def test_the_run_after_a_failed_one_is_whole(
    settings: dict[str, Any], stopping_at: Callable[..., Any]
) -> None:
    """The same YOLO object trains again: one monitor, its own folder, every step once."""
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    with stopping_at(model, "on_train_batch_start", 2):
        model.train(**settings)
    model.clear_callback("on_train_batch_start")
    model.train(**settings)
    run = read_run(model.trainer.save_dir)
    assert run.info.status == "finished"
    assert run.series("model.16", "r_out_pre")[0] == [0, 1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, in Ultralytics' own validation
def test_a_batch_of_nan_leaves_records_and_the_average_usable(settings: dict[str, Any]) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3,P4")
    poisoned: list[int] = []
    base = host.TRAINERS[next(t for t in host.TRAINERS if t.__name__ == "DetectionTrainer")]

    class Poisoned(base):  # type: ignore[misc, valid-type]
        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch = super().preprocess_batch(batch)
            if self.epoch == 1 and not poisoned:
                poisoned.append(self.epoch)
                batch["img"] = batch["img"] * float("nan")
            return batch

    try:
        model.train(trainer=Poisoned, **{**settings, "epochs": 3})
    except RuntimeError as error:  # Ultralytics gave up; the records are still ours to keep
        assert "NaN" in str(error)
    assert poisoned
    run = read_run(Path(settings["project"], "run"))
    assert run.problems == ()
    assert run.info.status in {"finished", "failed"}
    _, averages = run.series("model.16", "r_ema")
    assert all(math.isfinite(value) for value in averages)
    assert "non_finite" in {event.kind for event in run.events}


def test_blocks_that_are_missing_at_the_start_stop_the_run(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = YOLO("yolo11n.yaml")
    model.insert("P3,P4")
    build = host.tasks.BaseModel.load

    def losing(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = build(self, *args, **kwargs)
        layer = self.model[16]
        from coordcbam.insert.attach import detach

        detach(layer)
        return done

    monkeypatch.setattr(host.tasks.BaseModel, "load", losing)
    with pytest.raises(host.LostBlocksError, match=r"model\.16") as caught:
        model.train(**settings)
    assert "\n" not in str(caught.value)
    assert not Path(settings["project"], "run", "coordcbam").exists()


def test_a_block_that_never_runs_stops_the_run(settings: dict[str, Any]) -> None:
    """A hook that is gone leaves keys and checkpoints looking right."""
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    model.add_callback("on_train_start", lambda t: t.model.model[16]._forward_hooks.clear())
    with pytest.raises(host.LostBlocksError, match=r"model\.16.*never ran"):
        model.train(**settings)


def test_trainers_are_importable_and_travel_to_other_processes() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    import pickle

    assert host.TRAINERS
    for twin in host.TRAINERS.values():
        assert getattr(host, twin.__name__) is twin
        assert pickle.loads(pickle.dumps(twin)) is twin
        assert pickle.loads(cloudpickle.dumps(twin)) is twin
    assert YOLO("yolo11n.yaml").task_map["detect"]["trainer"] is host.MonitoredDetectionTrainer


def test_a_child_of_distributed_training_knows_the_blocks(
    tmp_path: Path, fresh_process: Callable[..., str]
) -> None:
    """What Ultralytics hands to each rank: the trainer's class and the model, by cloudpickle."""
    cloudpickle = pytest.importorskip("cloudpickle")
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    state = {"trainer": host.MonitoredDetectionTrainer, "model": model.model}
    (tmp_path / "state.pkl").write_bytes(cloudpickle.dumps(state))
    said = fresh_process(
        """
        import pickle
        state = pickle.load(open("state.pkl", "rb"))
        from ultralytics.nn.tasks import DetectionModel
        again = DetectionModel(state["model"].yaml, verbose=False)
        print(sum(type(m).__name__ == "CoordCBAM" for m in again.modules()))
        """
    )
    assert said.split()[-1] == "1"


def test_registering_twice_inserts_once() -> None:
    host.register()
    host.register()
    model = YOLO("yolo11n.yaml")
    model.insert("P3")
    again = type(model.model)(model.model.yaml, verbose=False)
    assert len(cc.blocks(again)) == 1
    assert len(again.model[16]._forward_hooks) == 1


@pytest.mark.skipif(
    "distill_model" not in host.DEFAULT_CFG_DICT, reason="this Ultralytics does not distil"
)
@pytest.mark.parametrize("teacher_has_blocks", [False, True])
def test_distillation_watches_the_student(
    teacher_has_blocks: bool, trained: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    teacher = YOLO(trained / "weights" / "best.pt")
    if not teacher_has_blocks:
        teacher.remove()
    teacher.save(tmp_path / "teacher.pt")
    student = YOLO("yolo11n.yaml")
    student.insert("P3,P4")
    student.train(**settings, distill_model=str(tmp_path / "teacher.pt"), single_cls=True)
    run = read_run(Path(settings["project"], "run"))
    assert (run.info.status, run.problems) == ("finished", ())
    assert run.blocks() == ["model.16", "model.19"]
    assert run.series("model.16", "rho")[0] == [0, 1]
    assert blocks_in(Path(settings["project"], "run", "weights", "best.pt"))
