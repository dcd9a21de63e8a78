"""The monitor of a run: one transfer a reading, its files, its schedule, its events, its end."""

import csv
import json
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import coordcbam as cc
from coordcbam.block import Stats
from coordcbam.monitor import Diagnosis, read
from coordcbam.records import read_run


def model_of(blocks=2):
    layers = [
        nn.Sequential(nn.Conv2d(3 if i == 0 else 8, 8, 1), cc.CoordCBAM(8)) for i in range(blocks)
    ]
    return nn.Sequential(*layers).train()


def batch(scale=1.0):
    return scale * torch.randn(2, 3, 6, 5)


def rows_of(folder):
    with (folder / "coordcbam" / "monitor.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events_of(folder):
    lines = (folder / "coordcbam" / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def info_of(folder):
    return json.loads((folder / "coordcbam" / "run.json").read_text())


# --- reading --------------------------------------------------------------------------------------


class Transfers(TorchDispatchMode):
    """Counts copies to the host; ``tolist`` asks for one number at a time on the CPU."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.scalars = self.lists = 0
        whole = torch.Tensor.tolist

        def tolist(tensor):
            self.lists += 1
            return whole(tensor.detach())

        monkeypatch.setattr(torch.Tensor, "tolist", tolist)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.scalars += "_local_scalar_dense" in func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("blocks", [1, 5])
def test_one_transfer_whatever_the_number_of_blocks(blocks, monkeypatch):
    model = model_of(blocks)
    with Transfers(monkeypatch) as transfers:
        readings = read(model)
    assert len(readings) == blocks
    assert (transfers.lists, transfers.scalars) == (1, 0)


def test_a_reading_is_the_blocks_numbers():
    model = model_of()
    assert all(math.isnan(v) for values in read(model).values() for v in values.values())
    for _, block in cc.blocks(model):
        block.monitor = True
    model(batch())
    readings = read(model)
    assert list(readings) == ["0.1", "1.1"]
    for (_, block), values in zip(cc.blocks(model), readings.values(), strict=True):
        assert list(values) == list(Stats._fields)
        assert list(values.values()) == block.stats.tolist()
    assert read(nn.ReLU()) == {}


def test_attached_blocks_carry_their_layers_name():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    cc.insert_(model, "0", inputs=batch())
    assert list(read(model)) == ["0"]


# --- files and schedule ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (10, [0])]
)
def test_schedule(tmp_path, every, steps):
    model = model_of()
    with cc.Monitor(model, tmp_path, every=every) as monitor:
        for number in range(7):
            model(batch())
            reading = monitor.step(epoch=number // 4)
            assert (reading is not None) == (number in steps)
    rows = rows_of(tmp_path)
    assert [int(row["step"]) for row in rows] == [s for s in steps for _ in range(2)]
    assert [int(row["epoch"]) for row in rows] == [s // 4 for s in steps for _ in range(2)]
    assert [row["block"] for row in rows] == ["0.1", "1.1"] * len(steps)


def test_the_last_epoch_given_holds(tmp_path):
    model = model_of(1)
    with cc.Monitor(model, tmp_path, every=1) as monitor:
        for epoch in (None, 2, None):
            model(batch())
            monitor.step(epoch)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["0", "2", "2"]


def test_files(tmp_path):
    model = model_of()
    with cc.Monitor(model, tmp_path, every=1, host="toy", command="me", versions={"toy": "1"}) as m:
        assert info_of(tmp_path)["status"] == "running"
        model(batch())
        readings = m.step()
        m.metrics(0, {"mAP50": 0.5, "loss": 1.25})
    info = info_of(tmp_path)
    assert info["status"] == "finished"
    assert (info["host"], info["command"], info["versions"]["toy"]) == ("toy", "me", "1")
    assert {"coordcbam", "torch", "python"} <= set(info["versions"])
    assert info["config"]["preset"] == "step3"
    config = {key: value for key, value in info["config"].items() if key != "preset"}
    assert cc.BlockConfig.from_dict(config) == cc.BlockConfig.step3()
    parameters = sum(p.numel() for p in cc.CoordCBAM(8).parameters())
    assert info["places"] == [
        {"path": path, "channels": 8, "parameters": parameters} for path in ("0.1", "1.1")
    ]
    run = read_run(tmp_path)
    assert run.problems == ()
    for row in run.monitor:
        assert dict(row.values) == readings[row.block]  # not one digit is lost
        assert row.seconds >= 0
    assert run.metrics == ({"epoch": 0.0, "mAP50": 0.5, "loss": 1.25},)


def test_files_are_complete_at_any_moment(tmp_path):
    """What a kill would leave: the rows so far, a run that says it is running."""
    model = model_of()
    monitor = cc.Monitor(model, tmp_path, every=1)
    for count in range(1, 4):
        model(batch())
        monitor.step()
        run = read_run(tmp_path)
        assert len(run.monitor) == 2 * count
        assert (run.info.status, run.problems) == ("running", ())
    monitor.close()


def test_it_switches_the_blocks_on(tmp_path):
    model = model_of()
    assert not any(block.monitor for _, block in cc.blocks(model))
    with cc.Monitor(model, tmp_path):
        assert all(block.monitor for _, block in cc.blocks(model))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_it_asks_for_all_numbers_only_where_it_reads_them(every, tmp_path):
    model = model_of(1)
    block = model[0][1]
    asked = []
    with cc.Monitor(model, tmp_path, every=every) as monitor:
        for step in range(6):
            asked.append(block.detailed)
            model(batch())
            readings = monitor.step()
            assert (readings is None) == (step % every != 0)
    assert asked == [step % every == 0 for step in range(6)]
    assert block.detailed
    assert block.updates.item() == 6


def test_a_failure_is_recorded_and_passes_through(tmp_path):
    model = model_of()
    with pytest.raises(ZeroDivisionError), cc.Monitor(model, tmp_path, every=1) as monitor:
        model(batch())
        monitor.step()
        1 / 0  # noqa: B018
    assert info_of(tmp_path)["status"] == "failed"
    assert len(rows_of(tmp_path)) == 2


def test_close_takes_a_result(tmp_path):
    monitor = cc.Monitor(model_of(), tmp_path)
    monitor.close(status="failed", result={"mAP50": 0.25})
    assert info_of(tmp_path)["status"] == "failed"
    assert info_of(tmp_path)["result"] == {"mAP50": 0.25}


def test_a_resumed_run_goes_on_in_the_same_files(tmp_path):
    model = model_of(1)
    with cc.Monitor(model, tmp_path, every=2) as monitor:
        for _ in range(4):
            model(batch())
            monitor.step(epoch=0)
        monitor.metrics(0, {"loss": 2.0})
    started = info_of(tmp_path)["started"]
    with cc.Monitor(model, tmp_path, every=2, first_step=4) as monitor:
        assert info_of(tmp_path)["status"] == "running"
        for _ in range(3):
            model(batch())
            monitor.step(epoch=1)
        monitor.metrics(1, {"loss": 1.0})
    assert [(int(r["step"]), int(r["epoch"])) for r in rows_of(tmp_path)] == [
        (0, 0),
        (2, 0),
        (4, 1),
        (6, 1),
    ]
    run = read_run(tmp_path)
    assert (run.info.started, run.info.status) == (started, "finished")
    assert [row["loss"] for row in run.metrics] == [2.0, 1.0]


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "10", None])
def test_every_is_a_positive_integer(tmp_path, every):
    with pytest.raises(ValueError, match=r"Monitor\.every=.*expected an integer >= 1"):
        cc.Monitor(model_of(), tmp_path, every=every)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_blocks(tmp_path):
    with pytest.raises(ValueError, match=r"no blocks; insert_"):
        cc.Monitor(nn.ReLU(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- events ---------------------------------------------------------------------------------------


def shut(block, *, closed):
    with torch.no_grad():
        for layer in (block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head):
            layer.weight.zero_()
            layer.bias.fill_(-50.0 if closed else 50.0)


def test_events_of_a_block_that_suppresses_is_rescued_and_heals(tmp_path):
    config = cc.BlockConfig.from_notebook(
        beta_ca=1.0, coord_beta=1.0, coord_scale_min=1e-3, alpha_init=0.95, ema_momentum=0.3
    )
    block = cc.CoordCBAM(3, config)
    model = nn.Sequential(block).train()
    with cc.Monitor(model, tmp_path, every=1) as monitor:
        for number in range(12):
            shut(block, closed=2 <= number < 6)
            x = batch()
            if number == 9:
                x[0, 0, 0, 0] = math.nan
            model(x)
            monitor.step(epoch=number // 6)
    events = [(e["step"], e["kind"]) for e in events_of(tmp_path)]
    kinds = [kind for _, kind in events]
    assert events[0] == (2, "suppressing")
    assert kinds == [
        "suppressing",
        "rescue",
        "suppressing_ended",
        "rescue_ended",
        "non_finite",
        "non_finite_ended",
    ]
    assert {kind: step for step, kind in events}["suppressing_ended"] == 6
    assert events[-2:] == [(9, "non_finite"), (10, "non_finite_ended")]
    assert all(e["block"] == "0" and e["epoch"] == e["step"] // 6 for e in events_of(tmp_path))
    assert all(e["message"] and "{" not in e["message"] for e in events_of(tmp_path))


def test_a_healthy_run_has_no_events(tmp_path):
    model = model_of()
    with cc.Monitor(model, tmp_path, every=1) as monitor:
        for _ in range(5):
            model(batch())
            monitor.step()
    assert events_of(tmp_path) == []


HEALTHY = {"r_out_pre": 0.75, "alpha": 0.75, "alpha_eff": 0.75}
OURS = HEALTHY | {"rho": 0.9, "skipped": 0.0}
BEFORE = dict.fromkeys(HEALTHY, math.nan)


@pytest.mark.parametrize(
    ("readings", "kinds"),
    [
        ([HEALTHY, HEALTHY], []),
        ([HEALTHY | {"r_out_pre": 0.44}], ["suppressing"]),
        ([HEALTHY | {"r_out_pre": 0.45}], []),
        ([HEALTHY | {"r_out_pre": 0.2}, HEALTHY | {"r_out_pre": 0.44}], ["suppressing"]),
        ([HEALTHY | {"alpha_eff": 0.5}, HEALTHY], ["rescue", "rescue_ended"]),
        ([HEALTHY | {"r_out_pre": math.nan}, HEALTHY], ["non_finite", "non_finite_ended"]),
        ([HEALTHY | {"r_out_pre": math.inf}], ["non_finite"]),
        ([OURS, OURS], []),
        ([OURS | {"r_out_pre": 0.1}], []),  # a ratio of deviations is no matter where rho is known
        ([OURS | {"rho": 0.44, "r_out_pre": 1.0}], ["suppressing"]),
        (
            [OURS | {"rho": math.nan, "skipped": 1.0}, OURS],
            ["non_finite", "skipped", "non_finite_ended"],
        ),
        ([OURS | {"skipped": 2.0}, OURS | {"skipped": 2.0}], ["skipped"]),
        ([BEFORE, HEALTHY], []),
        ([BEFORE, BEFORE], []),
    ],
)
def test_diagnosis(readings, kinds):
    watch = Diagnosis()
    events = [e for i, r in enumerate(readings) for e in watch.changes(i, 0, {"b": r})]
    assert [event.kind for event in events] == kinds


def test_what_was_skipped_before_a_resume_is_no_news():
    watch = Diagnosis({"b": 2.0})
    (event,) = watch.changes(0, 0, {"b": OURS | {"skipped": 5.0}})
    assert event.message.startswith("batches of 3 steps told nothing")


def test_a_resumed_monitor_knows_what_was_skipped(tmp_path):
    model = model_of(1)
    block = model[0][1]
    block.skipped.fill_(4)
    with cc.Monitor(model, tmp_path, every=1) as monitor:
        model(batch())
        monitor.step()
        model(batch(math.nan))
        monitor.step()
        model(batch())
        monitor.step()
    (event,) = (e for e in read_run(tmp_path).events if e.kind == "skipped")
    assert (event.step, event.message[:17]) == (2, "batches of 1 step")


def test_diagnosis_keeps_blocks_apart():
    watch = Diagnosis()
    bad = HEALTHY | {"r_out_pre": 0.3}
    first = list(watch.changes(0, 0, {"a": bad, "b": HEALTHY}))
    second = list(watch.changes(1, 0, {"a": bad, "b": bad}))
    assert [(e.block, e.kind) for e in (*first, *second)] == [
        ("a", "suppressing"),
        ("b", "suppressing"),
    ]


def test_a_closed_monitor_leaves_blocks_that_write_all_their_numbers(tmp_path):
    """Whatever step it was closed at; another reader would find the numbers of an old batch."""
    model = model_of(1)
    with cc.Monitor(model, tmp_path, every=10) as monitor:
        model(batch())
        monitor.step()
    ((_, block),) = cc.blocks(model)
    assert block.detailed
    before = block.stats.clone()
    model(batch(scale=2.0))
    assert Stats(*block.stats).x_std > 1.5 * Stats(*before).x_std


def test_of_blocks_with_different_options_what_holds_for_all_is_recorded(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1))
    x = torch.randn(2, 3, 6, 5)
    cc.insert_(model, "0", config=cc.BlockConfig.step3(), inputs=x)
    cc.insert_(model, "1", config=cc.BlockConfig.step1(), inputs=x)
    with cc.Monitor(model, tmp_path) as monitor:
        model(x)
        monitor.step()
    info = read_run(tmp_path).info
    assert info.config["preset"] == "mixed"
    assert (info.certificate["gain_min"], info.certificate["gain_max"]) == (0.25, 1.87)
    assert "r_min" not in info.certificate
