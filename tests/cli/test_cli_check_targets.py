"""``check`` of attention that is not ours, of states that only numbers show, and of odd files."""

import dataclasses
import json
import os
import pickle
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import coordcbam as cc
from coordcbam import BlockConfig, guard_, insert_
from coordcbam.checks.distance import Distance, Layout, apart
from coordcbam.insert import blocks
from coordcbam.kernels import KERNELS
from coordcbam.records import Event, Place, RunInfo, RunWriter

# Blocks whose rescue cannot act say so when they are made, which is what is looked for here.
pytestmark = pytest.mark.filterwarnings("ignore::coordcbam.block.cbam.UnreachableRescueWarning")

PICTURE = torch.zeros(1, 3, 32, 32)
FIELDS = ("r_out_pre", "alpha", "alpha_eff")


class Peaks(nn.Module):
    """An attention by maxima over places, whose backward does not repeat on CUDA."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.pool(x))


class Means(Peaks):
    """The same by means, which repeats."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()


def made(config: BlockConfig | None = None, **options: Any) -> nn.Sequential:
    """A model with a block or another's whose gates depend on the picture."""
    torch.manual_seed(0)
    model = plain()
    insert_(model, "0", config=config, inputs=PICTURE, **options)
    for _, block in blocks(model):
        if isinstance(block, cc.CoordCBAM):
            nn.init.normal_(block.ca.fc2.weight, std=0.5)
    return model.eval()


@pytest.fixture
def found(call: Callable[..., Any], empty: Path) -> Callable[..., Any]:
    """The status, and what was found or noted in a model."""

    def run(model: Any, *, notes: bool = False) -> Any:
        torch.save(model, "model.pt")
        done = call("check", "model.pt", "--json")
        document = json.loads(done.out)
        wanted = document["notes" if notes else "findings"]
        assert all(row["note"] is notes for row in wanted)
        return done.status, [row["what"] for row in wanted]

    return run


@pytest.mark.parametrize("r_min", [None, 0.9])
def test_a_sound_foreign_block_has_no_finding(r_min: float | None, found: Any) -> None:
    model = made(block=Means, r_min=r_min)
    model.yaml = {"coordcbam": [{"places": [{"path": "0"}]}]}
    assert found(model) == (0, [])


def unhooked_foreign() -> nn.Module:
    model = made(block=Means)
    model[0]._forward_hooks.clear()
    return model


def unhooked_guard() -> nn.Module:
    model = plain()
    guard_(model, "1")
    model[1]._forward_hooks.clear()
    return model


def bypassed_foreign() -> nn.Module:
    model = made(block=Means)
    model[0].ccattn.bypassed = True
    return model


def peaks() -> nn.Module:
    return made(block=Peaks)


def guarded_peaks() -> nn.Module:
    return made(block=Peaks, r_min=0.9)


def peaks_in_a_guard() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), Peaks(16)).eval()
    guard_(model, "1")
    return model


def temperature_at_its_end() -> nn.Module:
    config = BlockConfig.step2(ca_temperature=1.0, learnable_temperature=True)
    model = made(config.replace(ca_t_map="softplus"))
    model[0].ccattn.ca.t_raw.data.fill_(50.0)
    return model


def rescued_by_the_notebook() -> nn.Module:
    model = made(BlockConfig.step2())
    model[0].ccattn.r_ema.fill_(0.3)
    return model


def rescue_of_ours_out_of_reach() -> nn.Module:
    return made(BlockConfig.step3(r_min=0.1))


def rescue_without_a_monitor() -> nn.Module:
    return made(monitor=False)


def broken_elsewhere() -> nn.Module:
    model = made()
    model[2].weight.data[0] = torch.nan
    return model


def broken_buffer() -> nn.Module:
    model = made()
    model[0].ccattn.r_ema.fill_(torch.nan)
    return model


def lost_inside() -> nn.Module:
    inner = plain()
    inner.yaml = {"coordcbam": [{"places": [{"path": "2"}]}]}
    return nn.Sequential(made(), nn.Conv2d(8, 3, 1), inner)


FAULTS: dict[Callable[[], nn.Module], str] = {
    unhooked_foreign: "the block never runs",
    unhooked_guard: "the block never runs",
    bypassed_foreign: "the block is bypassed",
    peaks: "training on CUDA does not repeat",
    guarded_peaks: "training on CUDA does not repeat",
    peaks_in_a_guard: "training on CUDA does not repeat",
    temperature_at_its_end: "the temperature is at its end",
    rescued_by_the_notebook: "the rescue is active",
    rescue_of_ours_out_of_reach: "the rescue cannot fire",
    rescue_without_a_monitor: "monitor off",
    broken_elsewhere: "not finite",
    broken_buffer: "not finite",
    lost_inside: "the block is lost",
}


@pytest.mark.parametrize(("fault", "what"), FAULTS.items(), ids=[f.__name__ for f in FAULTS])
def test_a_fault_is_found(fault: Callable[[], nn.Module], what: str, found: Any) -> None:
    assert found(fault()) == (1, [what])


def with_a_mask() -> nn.Module:
    model = made()
    model.register_buffer("mask", torch.full((3,), -torch.inf))
    return model


def guarded() -> nn.Module:
    model = plain()
    guard_(model, "1")
    return model


def learning_its_temperature() -> nn.Module:
    return made(BlockConfig.step3(learnable_temperature=True))


def with_a_recipe_inside() -> nn.Module:
    inner = made()
    inner.yaml = {"coordcbam": [{"places": [{"path": "0"}]}]}
    return nn.Sequential(nn.Identity(), inner)


SOUND_MODELS = [with_a_mask, guarded, learning_its_temperature, with_a_recipe_inside, made]


@pytest.mark.parametrize("sound", SOUND_MODELS)
def test_what_is_sound_has_no_finding(sound: Callable[[], nn.Module], found: Any) -> None:
    assert found(sound()) == (0, [])


def fresh() -> nn.Module:
    model = plain()
    insert_(model, "0", inputs=PICTURE)
    return model


def of_two_pictures() -> nn.Module:
    return nn.ModuleList([made()])


def without_a_rescue() -> nn.Module:
    return made(BlockConfig.step1(), monitor=False)


def deployed() -> nn.Module:
    return cc.deploy(made())


NOTES: dict[Callable[[], nn.Module], str] = {
    fresh: "still the exact identity: not trained",
    plain: "no blocks of coordcbam in it",
    deployed: "blocks in the inference form",
    of_two_pictures: "no forward could be run",
    without_a_rescue: "monitor off",
    lambda: made(BlockConfig.step2()): "the rescue cannot fire",
}


@pytest.mark.parametrize(("model", "what"), NOTES.items(), ids=NOTES.values())
def test_a_note_is_no_finding(model: Callable[[], nn.Module], what: str, found: Any) -> None:
    assert found(model(), notes=True) == (0, [what])


@pytest.mark.parametrize(("steps", "is_note"), [(0, False), (36, True), (5000, False)])
def test_a_gate_may_be_constant_while_training_begins(
    steps: int, is_note: bool, found: Any
) -> None:
    model = made()
    nn.init.normal_(model[0].ccattn.ca.fc2.weight, std=1e-6)
    model[0].ccattn.updates.fill_(steps)
    assert found(model) == ((0, []) if is_note else (1, ["the channel gate is constant"]))
    if is_note:
        assert found(model, notes=True) == (0, ["still nearly the identity"])


def test_many_broken_tensors_are_counted(call: Callable[..., Any], empty: Path) -> None:
    model = made()
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    torch.save(model, "model.pt")
    rows = json.loads(call("check", "model.pt", "--json").out)["findings"]
    told = [row["measured"] for row in rows if row["what"] == "not finite"]
    assert len(told) == 6
    assert told[-1] == f"{len(list(model.parameters())) - 5} more tensors"


def test_a_block_that_the_fast_kernel_refuses(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if KERNELS["cpu"].missing() is not None:
        pytest.skip("no fast kernel here")
    model = made(BlockConfig.step3(coord_use_spatial_gate=True))
    assert found(model) == (1, ["the kernel is 'algebra'"])
    slow = dataclasses.replace(KERNELS["cpu"], missing=lambda: "no compiler")
    monkeypatch.setitem(KERNELS, "cpu", slow)
    assert found(model) == (0, [])


def test_what_several_blocks_have_is_one_row(call: Callable[..., Any], empty: Path) -> None:
    model = plain()
    insert_(model, ["0", "2"], inputs=PICTURE)
    torch.save(model, "model.pt")
    out = call("check", "model.pt").out
    assert "2 blocks" in out
    assert "0, 2" in out
    assert out.count("exact identity") == 1


def test_a_class_that_is_gone(call: Callable[..., Any], empty: Path) -> None:
    module = types.ModuleType("here_today")
    gone = type("Gone", (nn.Module,), {"__module__": "here_today"})
    module.Gone = gone  # type: ignore[attr-defined]
    sys.modules["here_today"] = module
    torch.save(gone(), "model.pt")
    del module.Gone
    for _ in range(2):  # the class is gone, then its module
        done = call("check", "model.pt", "--json")
        (row,) = json.loads(done.out)["findings"]
        assert (done.status, row["what"]) == (1, "a name is not registered")
        assert "here_today" in row["measured"]
        sys.modules.pop("here_today", None)


def _scripted() -> None:
    torch.jit.save(torch.jit.trace(plain(), PICTURE), "odd.pt")


def _pickled_number() -> None:
    Path("odd.pt").write_bytes(pickle.dumps(3))


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "a text that begins like a pickle": (
        lambda: Path("odd.pt").write_text("import os\nprint()\n"),
        "not a checkpoint of PyTorch",
    ),
    "empty": (lambda: Path("odd.pt").touch(), "not a checkpoint of PyTorch"),
    "another pickle": (_pickled_number, "not a checkpoint of PyTorch"),
    "cut": (lambda: Path("odd.pt").write_bytes(b"PK\3\4 and no more"), "not a checkpoint"),
    "a TorchScript": (_scripted, "goes behind --export"),
    "a number": (lambda: torch.save(3, "odd.pt"), "no network in it"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_one_line(kind: str, call: Callable[..., Any], empty: Path) -> None:
    write, named = ODD[kind]
    write()
    done = call("check", "odd.pt")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1, done.err
    assert named in done.err


@pytest.mark.parametrize("file", ["model.yaml", "model.pt"])
def test_without_the_host(
    file: str, call: Callable[..., Any], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError("No module named 'ultralytics'", name="ultralytics")

    torch.save(plain(), "model.pt")
    Path("model.yaml").write_text("nc: 1\n")
    monkeypatch.setattr("torch.load", absent)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = call("check", file)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert 'pip install "coordcbam[yolo]"' in line


def _run(values: list[tuple[float, ...]], status: str | None = "finished") -> Path:
    info = RunInfo(
        host="torch",
        places=(Place(path="b", channels=8, parameters=1),),
        config={},
        versions={"torch": torch.__version__},
    )
    writer = RunWriter(Path("run/coordcbam"), info, FIELDS)
    for step, row in enumerate(values):
        writer.rows(step, 0, 0.1 * step, {"b": row})
    if status is not None:
        writer.finish(status)
    writer.close()
    return Path("run/coordcbam")


@pytest.fixture
def told(call: Callable[..., Any], empty: Path) -> Callable[..., Any]:
    """The status of ``check run``, and what it says, by whether that is a note."""

    def run() -> Any:
        done = call("check", "run", "--json")
        document = json.loads(done.out)
        rows = [*document["findings"], *document["notes"]]
        return done.status, {row["what"]: row["note"] for row in rows}

    return run


SOUND = (0.8, 0.75, 0.75)


def test_what_ended_before_the_end_is_a_note(told: Any) -> None:
    _run([(0.3, 0.75, 0.5), SOUND])
    assert told() == (0, {"was suppressing strongly": True})


def test_what_holds_at_the_end_is_a_finding(told: Any) -> None:
    _run([(0.3, 0.75, 0.75), (0.4, 0.75, 0.5)])
    assert told() == (1, {"suppressing": False, "the rescue never left": False})


def test_a_place_without_rows(told: Any) -> None:
    _run([])
    assert told() == (1, {"no reading": False})


def test_unusable_batches(told: Any) -> None:
    folder = _run([SOUND])
    event = Event(step=0, epoch=0, block="b", kind="skipped", message="a batch told nothing")
    (folder / "events.jsonl").write_text(json.dumps(vars(event)) + "\n")
    assert told() == (1, {"not finite or empty batches": False})


@pytest.mark.parametrize(
    ("hours", "expected"), [(0, "the run is marked running"), (2, "the run was killed")]
)
def test_a_run_that_wrote_nothing_for_long_was_killed(hours: int, expected: str, told: Any) -> None:
    folder = _run([SOUND], status=None)
    then = time.time() - 3600 * hours
    for file in folder.iterdir():
        os.utime(file, (then, then))
    assert told() == (int(hours > 0), {expected: hours == 0})


def test_a_run_that_failed(told: Any) -> None:
    _run([SOUND], status="failed")
    assert told() == (1, {"the run is marked failed": False})


def test_a_torn_line_is_a_note(told: Any) -> None:
    with (_run([SOUND]) / "monitor.csv").open("a") as file:
        file.write("1,0,")
    assert told() == (0, {"unreadable records": True})


def test_a_runs_weights_are_checked_too(told: Any) -> None:
    _run([SOUND])
    Path("run/weights").mkdir()
    torch.save(bypassed_foreign(), "run/weights/best.pt")
    assert told() == (1, {"the block is bypassed": False})


def test_rows_may_change_places() -> None:
    rows = np.random.default_rng(0).uniform(0, 100, (1, 10, 6)).astype(np.float32)
    other = rows[:, ::-1].copy()
    assert apart([rows], [other], Layout(1, rows=True)) == Distance(0.0, 0.0)
    other[0, -1, 4] += 0.25
    assert apart([rows], [other], Layout(1, rows=True)).score > 0.0


def test_only_boxes_and_scores_are_compared() -> None:
    a = np.zeros((1, 4 + 2 + 1, 9), dtype=np.float32)
    b = a.copy()
    b[0, 6] = 9.0  # a mask's coefficient
    assert apart([a], [b], Layout(2)) == Distance(0.0, 0.0)
    b[0, 5, 3], b[0, 3, 3] = 0.5, 2.0
    assert apart([a], [b], Layout(2)) == Distance(2.0, 0.5)
    b[0, 0, 0] = np.nan
    assert not apart([a], [b], Layout(2)).over(Distance(1.0, 1.0)) <= 1.0
