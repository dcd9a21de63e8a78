"""``doctor``: what is here, which kernel runs each block and why, and what to do about it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from coordcbam import CoordCBAM, guard_
from coordcbam.bench import versions
from coordcbam.checks import diagnosis
from coordcbam.kernels import KERNELS, cpu, table

built = pytest.mark.skipif(cpu.missing() is not None, reason=str(cpu.missing()))

NOT_BUILT = "the library is not built; reinstall coordcbam where there is a C compiler"
STEPS = ("step1", "step2", "step3")
USUAL = ("float32", "float16", "bfloat16")


@pytest.fixture(autouse=True)
def _an_ordinary_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is chosen, there is no GPU, and the terminal is a narrow one."""
    for variable in ("COORDCBAM_KERNEL", "TRITON_INTERPRET"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(table, "_chosen", "auto")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small YOLO of our host."""
    pytest.importorskip("ultralytics")
    from coordcbam.hosts.ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    return YOLO("yolo11n.yaml")


def lines_of(done: Any, start: str) -> list[str]:
    return [line for line in done.out.splitlines() if line.startswith(start)]


def rows_of(done: Any) -> dict[tuple[str, str], tuple[str | None, str]]:
    rows = json.loads(done.out)["blocks"]
    return {(row["block"], row["dtype"]): (row["kernel"], row["reason"]) for row in rows}


def test_it_prints_versions_and_a_line_each(call: Callable[..., Any], empty: Path) -> None:
    done = call("doctor")
    assert (done.status, done.err) == (0, "")
    first, second, third, fourth = done.out.splitlines()[:4]
    found = versions("torchvision", "triton")
    for name in ("coordcbam", "python", "torch"):
        assert f"{name} {found.pop(name)}" in first
    assert all(f"{name} {version}" in second for name, version in found.items() if version)
    assert "threads: 1, gpu: none" in third
    assert fourth == "kernel: auto, the fastest that can take the input"
    told = " ".join(done.out.split())
    for name, kernel in KERNELS.items():
        missing = kernel.missing()
        assert f"{name} {'yes' if missing is None else f'no: {missing}'}" in told
    for name in (*STEPS, "step3 spatial"):
        assert len(lines_of(done, f"{name}  ")) == 3
    assert len(lines_of(done, "step")) == 4 * 3
    assert list(empty.iterdir()) == []


@built
def test_json_says_which_kernel_and_why(call: Callable[..., Any]) -> None:
    done = call("doctor", "--json")
    document = json.loads(done.out)
    assert set(document) == {"machine", "versions", "chosen", "kernels", "blocks", "advice"}
    assert document["chosen"] == "auto"
    assert [each["name"] for each in document["kernels"]] == list(KERNELS)
    assert document["kernels"][0] == {"name": "plain", "missing": None}
    assert document["kernels"][-1]["missing"]
    assert set(document["versions"]) >= {"torch", "ultralytics", "torchvision", "triton"}
    rows = rows_of(done)
    assert list(rows) == [(name, dtype) for name in (*STEPS, "step3 spatial") for dtype in USUAL]
    for name in STEPS:
        assert rows[name, "float32"] == ("cpu", "the fastest here")
        assert rows[name, "float16"] == ("algebra", "x is torch.float16, not torch.float32")
    assert rows["step3 spatial", "float32"] == ("algebra", "the block has a spatial gate")
    assert document["advice"] == []
    assert {row["device"] for row in document["blocks"]} == {"cpu"}
    assert "spatial gate" in done.err  # the table is still there to read


def test_a_library_that_is_missing(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_library", lambda: NOT_BUILT)
    done = call("doctor", "--dtype", "float32")
    assert done.status == 0
    assert " ".join(done.out.split()).count(f"no: {NOT_BUILT}") == 1
    for name in STEPS:
        (line,) = lines_of(done, f"{name}  ")
        assert line.split(maxsplit=3)[3].split(maxsplit=1) == ["algebra", "no kernel 'cpu' here"]
    (said,) = lines_of(done, "to do: ")
    assert "install a C compiler and reinstall coordcbam" in said


def test_triton_is_asked_for_only_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"cpu": None, "triton": "triton is not installed"}
    assert diagnosis.advice(missing, []) == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert diagnosis.advice(missing, []) == ["for the kernel 'triton': pip install triton"]
    assert diagnosis.advice({"cpu": None, "triton": None}, []) == []


def test_a_layer_with_a_hook(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    block = CoordCBAM(8)
    block.coord.h_channel_mixer.register_forward_hook(lambda *_: None)
    monkeypatch.setattr(diagnosis, "samples", lambda: [("hooked", block), ("free", CoordCBAM(8))])
    done = call("doctor", "--dtype", "float32", "--json")
    assert done.status == 0
    rows = rows_of(done)
    assert rows["hooked", "float32"] == ("plain", "a Conv2d inside the block has hooks")
    assert rows["free", "float32"][0] != "plain"
    (said,) = json.loads(done.out)["advice"]
    assert said.startswith("for a fast kernel in hooked: take off the hooks")


def test_a_kernel_that_was_chosen_by_name(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_chosen", "plain")
    monkeypatch.setenv("COORDCBAM_KERNEL", "plain")
    done = call("doctor")
    assert done.status == 0
    assert lines_of(done, "kernel: ") == ["kernel: plain, named by COORDCBAM_KERNEL"]
    assert all(
        line.endswith("chosen by name: plain") for line in map(str.strip, lines_of(done, "step"))
    )
    assert lines_of(done, "to do: ") == []
    monkeypatch.delenv("COORDCBAM_KERNEL")
    assert lines_of(call("doctor"), "kernel: ") == ["kernel: plain"]


@built
def test_what_a_named_kernel_cannot_take_is_status_1(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_chosen", "cpu")
    done = call("doctor", "--dtype", "float16")
    assert done.status == 1
    assert done.err == ""
    assert len(lines_of(done, "step")) == 4
    assert all("ERROR" in line for line in lines_of(done, "step"))
    (said,) = lines_of(done, "to do: ")
    assert "COORDCBAM_KERNEL" in said
    rows = rows_of(call("doctor", "--dtype", "float32", "--json"))
    assert rows["step3", "float32"] == ("cpu", "chosen by name: cpu")
    assert rows["step3 spatial", "float32"] == (None, "the block has a spatial gate")


@pytest.mark.parametrize(
    ("name", "said"), [("triton", "there is no CUDA device"), ("fast", "expected one of 'auto'")]
)
def test_an_impossible_variable_is_one_line(
    name: str, said: str, child_environment: dict[str, str]
) -> None:
    """The kernels cannot even be imported with it."""
    child_environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, "-m", "coordcbam.cli.main", "doctor"],
        env={**child_environment, "COORDCBAM_KERNEL": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"coordcbam doctor: COORDCBAM_KERNEL: kernel {name!r}")
    assert said in line or name == "triton"  # where triton itself is not installed


def test_the_blocks_of_a_checkpoint_and_of_a_yaml(
    detector: Any, call: Callable[..., Any], tmp_path: Path
) -> None:
    detector.insert("P3,P5")
    detector.save(tmp_path / "best.pt")
    text = yaml.safe_dump(detector.model.yaml)
    (tmp_path / "yolo11n-blocks.yaml").write_text(text)
    missing = cpu.missing()
    runs = ("cpu", "the fastest here") if missing is None else ("algebra", missing)
    wanted = {(name, "float32"): runs for name in ("model.16", "model.22")}
    for file in ("best.pt", "yolo11n-blocks.yaml"):
        done = call("doctor", file, "--dtype", "float32", "--json")
        assert done.status == 0, done.err
        assert rows_of(done) == wanted


def test_a_model_without_blocks_of_ours(
    detector: Any, call: Callable[..., Any], tmp_path: Path
) -> None:
    detector.save(tmp_path / "none.pt")
    done = call("doctor", "none.pt")
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "coordcbam doctor: none.pt: there are no blocks of coordcbam in it; "
        "expected a model after insert(...)\n"
    )
    guard_(detector.model, at="model.16")
    detector.save(tmp_path / "guarded.pt")
    done = call("doctor", "guarded.pt")
    assert done.status == 2
    assert "only guards, which need no kernel" in done.err


def test_a_model_without_the_extra(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, empty: Path
) -> None:
    Path("best.pt").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = call("doctor", "best.pt")
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert "looking into a model needs 'ultralytics'" in line
    assert "coordcbam[yolo]" in line


MISTAKES = {
    "nowhere.pt": "no such file",
    ".": "no such file",
    "broken.pt": "no model to look into",
    "broken.txt": "expected a .pt or .yaml",
    "--device cuda:99": "not a device of this machine; expected one of 'cpu'",
    "--device gpu9": "'cpu'",
    "--dtype int8": "'float32'",
    "--dtype float61": "'float16'",
    "--dtyp float16": "--dtype",
    "best.pt last.pt": "last.pt",
}


@pytest.mark.parametrize(("words", "named"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    words: str, named: str, call: Callable[..., Any], empty: Path
) -> None:
    if "broken.pt" in words:
        pytest.importorskip("ultralytics")
    for name in ("broken.pt", "broken.txt"):
        Path(name).write_text("no pickle")
    done = call("doctor", *words.split())
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1, done.err
    assert named in done.err
    assert done.err.startswith("coordcbam doctor: ")
