"""Loggers of a monitor: what they get, when, what a failing one does, and what a probe leaves."""

import csv
import logging
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import coordcbam as cc
from coordcbam._support.errors import MissingExtraError, UsageError
from coordcbam.monitor.loggers import (
    Comet,
    Logger,
    Loggers,
    MLflow,
    TensorBoard,
    WandB,
    gates,
    histograms_of,
)
from coordcbam.records import Picture, write_pictures

PROBE = torch.linspace(-1, 1, 2 * 3 * 6 * 5).reshape(2, 3, 6, 5)
COUNTS = {"channel_gates": 2 * 8, "row_gates": 2 * 8 * 6, "column_gates": 2 * 8 * 5}


def model_of(config=None):
    # Gates as drawn: fresh ones of step 3 are all at one half.
    config = config or cc.BlockConfig.step3().replace(init="notebook")
    layers = (nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), cc.CoordCBAM(8, config), nn.Dropout(0.5))
    return nn.Sequential(*layers).train()


def trained(model, folder, steps=5, first_step=0, **options):
    with cc.Monitor(model, folder, every=2, first_step=first_step, **options) as monitor:
        for _ in range(steps):
            model(torch.randn(2, 3, 6, 5))
            monitor.step()


def rows_of(folder):
    with (folder / "coordcbam" / "monitor.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Kept:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.scalars, self.gates, self.pictures, self.closed = [], [], [], 0

    def log(self, values, step):
        self.scalars.append((step, values))

    def histograms(self, values, step):
        self.gates.append((step, values))

    def picture(self, name, picture, step):
        self.pictures.append((name, picture, step))

    def close(self):
        self.closed += 1


# --- what they get --------------------------------------------------------------------------------


def test_every_reading_arrives_as_it_is_in_the_records(tmp_path):
    kept, called = Kept(), []
    trained(
        model_of(), tmp_path, loggers=[kept, lambda values, step: called.append((step, values))]
    )
    rows = rows_of(tmp_path)
    assert [step for step, _ in kept.scalars] == [int(row["step"]) for row in rows] == [0, 2, 4]
    for row, (_, values) in zip(rows, kept.scalars, strict=True):
        written = {
            f"coordcbam/2/{name}": float(cell)
            for name, cell in row.items()
            if name not in {"step", "epoch", "seconds", "block"} and not math.isnan(float(cell))
        }
        assert values == written
        assert "coordcbam/2/rho" in values
    assert called == kept.scalars
    assert kept.closed == 1


def test_numbers_that_do_not_apply_are_left_out(tmp_path):
    kept = Kept()
    trained(model_of(cc.BlockConfig.step2()), tmp_path, loggers=[kept])  # it has no rho
    assert math.isnan(float(rows_of(tmp_path)[0]["rho"]))
    assert all("coordcbam/2/rho" not in values for _, values in kept.scalars)
    assert all("coordcbam/2/r_out_pre" in values for _, values in kept.scalars)


def test_a_resumed_run_sends_its_own_steps_only(tmp_path):
    kept, model = Kept(), model_of()
    trained(model, tmp_path, loggers=[kept])
    trained(model, tmp_path, steps=3, first_step=6, loggers=[kept])
    assert [step for step, _ in kept.scalars] == [0, 2, 4, 6, 8]
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [0, 2, 4, 6, 8]


def test_pictures_are_sent_when_the_run_ends(tmp_path):
    kept = Kept()
    folder = tmp_path / "coordcbam"
    with cc.Monitor(model_of(), tmp_path, loggers=[kept]) as monitor:
        monitor.model(PROBE)
        monitor.step()
        write_pictures(
            folder,
            [
                Picture(image="val/a.png", block="2", stage="before", file="a.jpg"),
                Picture(image="val/a.png", block="2", stage="after", file="gone.jpg"),
            ],
        )
        (folder / "a.jpg").write_bytes(b"")
        assert kept.pictures == []
    assert kept.pictures == [("coordcbam/2/before/val/a", folder / "a.jpg", 0)]


def test_a_run_that_failed_leaves_its_pictures_to_the_resumed_one(tmp_path):
    kept, picture = Kept(), Picture(image="a.png", block="2", stage="before", file="a.jpg")
    with (
        pytest.raises(InterruptedError),
        cc.Monitor(model_of(), tmp_path, loggers=[kept]) as monitor,
    ):
        write_pictures(monitor.folder, [picture])
        (monitor.folder / "a.jpg").write_bytes(b"")
        raise InterruptedError
    assert (kept.pictures, kept.closed) == ([], 1)
    cc.Monitor(model_of(), tmp_path, first_step=1, loggers=[kept]).close()
    assert [name for name, _, _ in kept.pictures] == ["coordcbam/2/before/a"]


def test_only_the_first_process_sends(tmp_path, monkeypatch):
    kept, model = Kept(), model_of()
    monkeypatch.setattr("coordcbam.monitor.monitor._writes", lambda: False)
    trained(model, tmp_path, loggers=[kept], probe=PROBE)
    assert (kept.scalars, kept.gates, kept.closed) == ([], [], 0)


# --- what cannot be one, and one that fails -------------------------------------------------------


@pytest.mark.parametrize("loggers", [[3], ["a"], "ab", 3, None, [object()]])
def test_what_is_no_logger_is_refused(tmp_path, loggers):
    model = model_of()
    with pytest.raises(UsageError, match="loggers"):
        cc.Monitor(model, tmp_path, loggers=loggers)
    assert not (tmp_path / "coordcbam").exists()


@pytest.mark.parametrize("method", ["log", "histograms", "picture", "close"])
def test_a_failing_logger_is_off_and_says_so_once(tmp_path, caplog, method):
    class Failing(Kept):
        tried = 0

    def fail(self, *values, **named):
        Failing.tried += 1
        raise OSError("the disk\nis full")

    setattr(Failing, method, fail)
    kept, model = Kept(), model_of()
    picture = Picture(image="a", block="2", stage="now", file="a.jpg")

    def draw(*_):
        (tmp_path / "coordcbam" / "a.jpg").write_bytes(b"")
        write_pictures(tmp_path / "coordcbam", [picture])

    model.register_forward_hook(draw)
    with caplog.at_level(logging.WARNING):
        trained(model, tmp_path, loggers=[Failing(), kept], probe=PROBE)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "the logger Failing is off: OSError: the disk is full"
    assert Failing.tried == (2 if method == "close" else 1)
    assert [step for step, _ in kept.scalars] == [step for step, _ in kept.gates] == [0, 2, 4]
    assert (len(kept.pictures), kept.closed) == (1, 1)
    assert len(rows_of(tmp_path)) == 3


def test_a_keyboard_interrupt_is_no_failing_logger():
    def interrupted(values, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Loggers([interrupted]).scalars({"b": {"rho": 1.0}}, 0)


def test_a_run_is_the_same_with_loggers_and_without(tmp_path):
    def run(folder, **options):
        torch.manual_seed(1)
        model = model_of()
        trained(model, folder, **options)
        return model.state_dict(), torch.get_rng_state()

    plain, state = run(tmp_path / "plain")
    logged, state_logged = run(tmp_path / "logged", loggers=[Kept()], probe=PROBE)
    assert torch.equal(state, state_logged)
    assert all(torch.equal(value, logged[key]) for key, value in plain.items())


def test_the_protocol_is_a_method():
    assert isinstance(Kept(), Logger)
    assert not isinstance(print, Logger)  # which is taken as well


class Spoiling(Kept):
    """Empties what it gets, and keeps how the run ended."""

    def log(self, values, step):
        super().log(values, step)
        values.clear()

    def histograms(self, values, step):
        for value in values.values():
            value.zero_()
        values.clear()

    def close(self, status):
        self.status = status


def test_no_logger_can_change_what_another_gets(tmp_path):
    kept, called = Kept(), []
    spoiling = [Spoiling(), lambda values, step: values.clear()]
    after = [kept, lambda values, step: called.append((step, dict(values)))]
    trained(model_of(), tmp_path, loggers=[*spoiling, *after], probe=PROBE)
    assert called == kept.scalars
    assert all("coordcbam/2/rho" in values for _, values in called)
    assert {name.split("/")[-1] for name in kept.gates[0][1]} == set(COUNTS)
    assert all(value.any() for value in kept.gates[0][1].values())


def test_a_logger_is_told_how_the_run_ended(tmp_path):
    ended = Spoiling()
    trained(model_of(), tmp_path / "a", loggers=[ended])
    assert ended.status == "finished"
    with (
        pytest.raises(KeyError),
        cc.Monitor(model_of(), tmp_path / "b", loggers=[ended, kept := Kept()]),
    ):
        raise KeyError
    assert (ended.status, kept.closed) == ("failed", 1)


def test_an_error_that_cannot_be_printed_stops_nothing(tmp_path, caplog):
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError

    def failing(values, step):
        raise MuteError

    with caplog.at_level(logging.WARNING):
        trained(model_of(), tmp_path, loggers=[failing, kept := Kept()])
    assert [record.getMessage() for record in caplog.records] == [
        "the logger failing is off: MuteError"
    ]
    assert len(kept.scalars) == 3


def test_a_class_is_no_logger():
    with pytest.raises(UsageError) as raised:
        Loggers([TensorBoard])
    told = "loggers: TensorBoard is a class: expected one made of it, such as TensorBoard(...)"
    assert str(raised.value) == told


# --- gates ----------------------------------------------------------------------------------------


def test_histograms_are_of_the_gates_of_the_probe(tmp_path):
    kept, model = Kept(), model_of()
    with cc.Monitor(model, tmp_path, every=2, loggers=[kept], probe=PROBE) as monitor:
        for _ in range(3):
            model(torch.randn(2, 3, 6, 5))
            monitor.step()
    assert [step for step, _ in kept.gates] == [0, 2]
    found = kept.gates[-1][1]
    assert {name: len(values) for name, values in found.items()} == {
        f"coordcbam/2/{name}": count for name, count in COUNTS.items()
    }
    model.eval()
    with torch.no_grad():
        seen = model[2].trace(model[1](model[0](PROBE)))
    for name, expected in (
        ("channel_gates", seen.channel.gate),
        ("row_gates", seen.coord.rows),
        ("column_gates", seen.coord.cols),
    ):
        assert torch.equal(found[f"coordcbam/2/{name}"], expected.flatten())
        assert expected.std() > 0


def test_gates_that_are_not_finite_switch_no_logger_off():
    nan = torch.full((4,), float("nan"))
    gates_ = {"2": {"channel_gates": nan, "row_gates": torch.cat([nan, torch.ones(2)])}}
    (name, values), *others = histograms_of(gates_).items()
    assert (name, values.tolist(), others) == ("coordcbam/2/row_gates", [1.0, 1.0], [])


def test_looking_before_a_backward_disturbs_no_graph():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.full((1,), 2.0))

        def forward(self, x):
            return x * self.scale

    model = nn.Sequential(*model_of(), Scaled())
    loss = model(PROBE).sum()
    gates(model, PROBE)
    loss.backward()
    assert model[0].weight.grad is not None


def test_without_a_probe_or_a_taker_there_is_no_forward(tmp_path):
    model, calls = model_of(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    trained(model, tmp_path / "a", loggers=[Kept()])
    trained(model, tmp_path / "b", loggers=[lambda values, step: None], probe=PROBE)
    assert len(calls) == 10


@pytest.mark.parametrize("step", ["step1", "step2", "step3"])
@pytest.mark.parametrize("training", [True, False])
def test_looking_leaves_the_model_as_it_was(step, training):
    class Noting(nn.Module):
        """As a detector's head does, it notes in eval what it was given."""

        anchors = None

        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.anchors, self.cells = x.shape, x
            self.seen += 1
            return x + torch.rand(1) + random.random() + np.random.rand()

    model = model_of(getattr(cc.BlockConfig, step)()).append(Noting())
    model[2].monitor = True
    model(torch.randn(2, 3, 6, 5))
    model.train(training)
    model[1].eval()  # a frozen one stays so
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stats, tally = model[2].stats.clone(), getattr(model[2], "tally", torch.zeros(1)).clone()
    kept = {module: dict(vars(module)) for module in model.modules()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    gradients = torch.is_grad_enabled()

    assert set(gates(model, (PROBE,))["2"]) == set(COUNTS)

    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert torch.is_grad_enabled() == gradients
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(model[2].stats, stats, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(getattr(model[2], "tally", torch.zeros(1)), tally)
    for module, attributes in kept.items():
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[name] is value for name, value in attributes.items())
        assert not module._forward_pre_hooks
    assert [module.training for module in model] == [training, False, *[training] * 3]


def test_a_probe_that_fails_is_told_once(tmp_path, caplog):
    kept, model = Kept(), model_of()
    with caplog.at_level(logging.WARNING):
        trained(model, tmp_path, loggers=[kept], probe=torch.zeros(1, 4, 6, 5))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("no histograms of gates: the probe failed: RuntimeError: ")
    assert (len(kept.scalars), kept.gates) == (3, [])
    assert all(module.training for module in model.modules())
    assert not model[2]._forward_pre_hooks


def test_attached_blocks_and_guards():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1))
    cc.insert_(model, "0", inputs=PROBE)
    cc.guard_(model, "1")
    assert list(gates(model, PROBE)) == ["0"]  # a guard has none


# --- packages that are not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [
        (lambda: TensorBoard("folder"), "tensorboard", "tensorboard"),
        (WandB, "wandb", "wandb"),
        (MLflow, "mlflow", "mlflow"),
        (Comet, "comet_ml", "comet"),
    ],
)
def test_a_package_that_is_absent_is_named_with_its_extra(monkeypatch, make, package, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as raised:
        make()
    assert f"needs {package!r}" in str(raised.value)
    assert str(raised.value).endswith(f'pip install "coordcbam[{extra}]"')


def test_tensorboard_wants_a_folder_or_a_writer():
    with pytest.raises(UsageError, match="expected a folder or a SummaryWriter"):
        TensorBoard(3)


def test_a_monitor_loads_no_client(child_environment):
    code = (
        "import sys, coordcbam; coordcbam.Monitor; import coordcbam.monitor.loggers;"
        "print([n for n in ('tensorboard', 'wandb', 'mlflow', 'comet_ml') if n in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=child_environment, check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
