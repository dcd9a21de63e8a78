"""``check`` of what a user has: each finding where it is there, and none where it is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coordcbam import BlockConfig, insert_
from coordcbam.insert import blocks
from coordcbam.records import Place, RunInfo, RunWriter

FIELDS = ("r_out_pre", "alpha", "alpha_eff")


@pytest.fixture
def model() -> nn.Module:
    made = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    insert_(made, "0", config=BlockConfig.step3(), inputs=torch.zeros(1, 3, 32, 32))
    (block,) = (block for _, block in blocks(made))
    nn.init.normal_(block.ca.fc2.weight, std=0.5)
    return made.eval()


@pytest.fixture
def check(call: Callable[..., Any], empty: Path) -> Callable[..., Any]:
    def run(model: Any, *words: object) -> tuple[int, list[str]]:
        torch.save(model, "model.pt")
        done = call("check", "model.pt", "--json", *words)
        found = json.loads(done.out)["findings"]
        return done.status, [each["what"] for each in found]

    return run


def test_a_sound_model_has_no_finding(model: nn.Module, check: Any) -> None:
    assert check(model) == (0, [])


def hook_removed(model: Any) -> None:
    model[0]._forward_hooks.clear()


def not_finite(model: Any) -> None:
    model[0].ccattn.ca.fc1.bias.data[0] = torch.nan


def bypassed(model: Any) -> None:
    model[0].ccattn.bypassed = True


def rescued(model: Any) -> None:
    model[0].ccattn.r_ema.fill_(0.6)


def skipped(model: Any) -> None:
    model[0].ccattn.skipped.fill_(3)


def closed(model: Any) -> None:
    model[0].ccattn.ca.fc2.bias.data.fill_(-50.0)


def constant(model: Any) -> None:
    model[0].ccattn.ca.fc2.weight.data.fill_(1e-9)


def lost(model: Any) -> None:
    model.yaml = {"coordcbam": [{"places": [{"path": "2"}]}]}


FAULTS = {
    hook_removed: "the block never runs",
    not_finite: "not finite",
    bypassed: "the block is bypassed",
    rescued: "the rescue is active",
    skipped: "skipped steps",
    closed: "the channel gate is closed everywhere",
    constant: "the channel gate is constant",
    lost: "the block is lost",
}


@pytest.mark.parametrize(("fault", "what"), FAULTS.items(), ids=[f.__name__ for f in FAULTS])
def test_a_fault_is_found(fault: Any, what: str, model: nn.Module, check: Any) -> None:
    fault(model)
    status, found = check(model)
    assert status == 1
    assert what in found


def test_a_fresh_block_is_only_noted(check: Any) -> None:
    made = nn.Sequential(nn.Conv2d(3, 8, 3))
    insert_(made, "0", inputs=torch.zeros(1, 3, 32, 32))
    assert check(made) == (0, [])


def test_a_foreign_model(call: Callable[..., Any], empty: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3)), "foreign.pt")
    done = call("check", "foreign.pt")
    assert (done.status, done.err) == (0, "")
    assert "no blocks of coordcbam in it" in done.out


MISTAKES = {
    "nowhere.pt": "no such file",
    "text.pt": "not a checkpoint",
    "text.txt": "neither a .pt nor a .yaml",
    "state.pt": "no network in it",
    ".": "expected a run's folder",
    "--export best.onnx": "give the model too",
    "good.pt --image a.png": "only --export looks at images",
    "good.pt --export nowhere.onnx": "no such file",
    "good.pt --export text.txt": ".onnx or .torchscript",
    "good.pt --preset step2": "--preset",
}


@pytest.mark.parametrize(("words", "named"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    words: str, named: str, call: Callable[..., Any], empty: Path, model: nn.Module
) -> None:
    for name in ("text.pt", "text.txt"):
        Path(name).write_text("no pickle")
    torch.save({"weight": torch.zeros(1)}, "state.pt")
    torch.save(model, "good.pt")
    done = call("check", *words.split())
    assert done.status == 2
    assert len(done.err.splitlines()) == 1, done.err
    assert named in done.err


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ((0.8, 0.75, 0.75), None),
        ((0.4, 0.75, 0.75), "suppressing"),
        ((0.3, 0.75, 0.75), "suppressing strongly"),
        ((0.8, 0.75, 0.5), "the rescue never left"),
        ((float("nan"),) * 3, "no reading"),
    ],
)
def test_records_without_weights(
    values: tuple[float, ...], what: str | None, call: Callable[..., Any], empty: Path
) -> None:
    info = RunInfo(
        host="torch",
        places=(Place(path="b", channels=8, parameters=1),),
        config={},
        versions={"torch": torch.__version__},
    )
    with RunWriter(Path("run/coordcbam"), info, FIELDS) as writer:
        writer.rows(0, 0, 0.1, {"b": values})
    for folder in ("run", "run/coordcbam"):
        done = call("check", folder, "--json")
        found = [each["what"] for each in json.loads(done.out)["findings"]]
        assert found == ([what] if what else [])
        assert done.status == int(what is not None)


def test_a_run_that_goes_on_and_another_version(call: Callable[..., Any], empty: Path) -> None:
    info = RunInfo(host="torch", places=(), config={}, versions={"torch": "1.0"})
    RunWriter(Path("run/coordcbam"), info, FIELDS).close()
    done = call("check", "run", "--json")
    document = json.loads(done.out)
    assert [each["what"] for each in document["notes"]] == ["the run is marked running"]
    assert [each["what"] for each in document["findings"]] == ["another version"]


def test_weights_that_are_torn_are_a_finding_beside_the_records(
    call: Callable[..., Any], empty: Path
) -> None:
    info = RunInfo(host="torch", places=(), config={}, versions={"torch": "1.0"})
    RunWriter(Path("run/coordcbam"), info, FIELDS).close()
    weights = Path("run/weights/best.pt")
    weights.parent.mkdir()
    torch.save(nn.Conv2d(3, 8, 3), weights)
    weights.write_bytes(weights.read_bytes()[:500])
    done = call("check", "run", "--json")
    findings = json.loads(done.out)["findings"]
    assert done.status == 1
    assert [each["what"] for each in findings] == ["another version", "the weights cannot be read"]
    assert findings[1]["where"] == "run/weights/best.pt"
    assert call("check", weights).status == 2
