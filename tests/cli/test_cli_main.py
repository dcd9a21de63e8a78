"""The command line itself: lean, one line per mistake, one JSON document when asked."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordcbam import __version__
from coordcbam.block import BlockConfig, all_rules
from coordcbam.cli.main import VERBS, main


@pytest.mark.parametrize("words", ["--help", "--version", "", "demp"])
def test_without_a_verb_nothing_heavy_is_imported(words: str) -> None:
    code = f"""
import sys
from coordcbam.cli.main import main
try:
    main({words.split()!r})
except SystemExit:
    pass
heavy = {{"torch", "ultralytics", "numpy", "matplotlib", "rich", "sklearn"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_answers() -> None:
    command = [sys.executable, "-m", "coordcbam.cli.main"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"coordcbam {__version__}"
    wrong = subprocess.run([*command, "demp"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr.splitlines() == ["coordcbam: unknown verb 'demp'; did you mean 'demo'?"]


def test_help_names_every_verb(call: Callable[..., Any]) -> None:
    done = call("--help")
    assert done.status == 0
    assert all(f"  {verb} " in done.out for verb in VERBS)
    assert call().out == done.out
    assert call().status == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb: str, call: Callable[..., Any]) -> None:
    done = call(verb, "--help")
    assert done.status == 0
    assert "--json" in done.out
    assert done.err == ""


MISTAKES: list[tuple[str, str]] = [
    ("demp", "'demo'"),
    ("chekc", "'check'"),
    ("xyzzy", "quicktest"),
    ("--jsn", "--jsn"),
    ("--json", "--json"),
    ("--", "--"),
    ("check --preset stp2", "'step2'"),
    ("check --preset step1 --config a.json", "one of them"),
    ("check --beta-cc 0.5", "--beta-ca"),
    ("check --ca-gat tanh", "--ca-gate"),
    ("check --beta-ca", "--beta-ca"),
    ("check --beta-ca many", "expected a finite number >= 0"),
    ("check --beta-ca nan", "finite"),
    ("check --beta-ca -1", "ChannelConfig.beta=-1.0"),
    ("check --ca-gate tanh", "'hardsigmoid'"),
    ("check --ca-reduction 2.5", "an integer >= 1"),
    ("check --residual off", "True or False"),
    ("check --preset step1 --r-min 0.3", "step2"),
    ("check --ca-t-min none", "None for both"),
    ("check --ca-min-hidden 0 --ca-reduction 128", "hidden"),
    ("check --config nowhere.json", "no such file"),
    ("check --config .", "expected a JSON file"),
    ("check words", "words"),
    ("quicktest --seed x", "invalid int"),
    ("quicktest --sed 1", "--seed"),
    ("quicktest --seed 99999999999999999999", "seed"),
    ("report", "RUN"),
    ("report nowhere", "expected a run's folder"),
    ("demo --epochs 0", "1 or more"),
    ("demo --epochs many", "invalid int"),
    ("demo --epoch 1", "--epochs"),
    ("demo --preset step9", "'step2'"),
    ("demo --seed -1", "seed"),
    ("train", "model="),
    ("train model=yolo11n.yaml", "data="),
    ("train data=digits", "model="),
    ("train model=yolo11n.yaml data=digits epoch=3", "'epochs'"),
    ("train model=yolo11n.yaml data=digits epochs=many", "epochs"),
    ("train model=yolo11n.yaml data=digits epochs=", "missing"),
    ("train model=yolo11n.yaml data=digits epochs 3", "epochs=..."),
    ("train model=yolo11n.yaml data=digits mosaic=2", "mosaic"),
    ("train model=yolo11q.yaml data=digits", "'yolo11.yaml'"),
    ("train model=yolo11x.pth data=digits", "'yolo11x.pt'"),
    ("train model=bst.pt data=digits", "no model file"),
    ("train model=runs data=digits", "no model file"),
    ("train model=yolo11n.yaml data=coc8.yaml", "'coco8.yaml'"),
    ("train model=yolo11n.yaml data=digits --at P7", "'P5'"),
    ("train model=yolo11n.yaml data=digits --at 99", "0 to 22"),
    ("train model=yolo11n.yaml data=digits --att P3", "--at"),
    ("train model=yolo11n.yaml data=digits --preset step7", "'step2'"),
    ("train model=yolo11n.yaml data=digits --beta-ca 1e999", "finite"),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(
    words: str, named: str, call: Callable[..., Any], empty: Path
) -> None:
    done = call(*words.split())
    assert done.status == 2, done.err
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert named in lines[0]
    assert lines[0].startswith("coordcbam")
    assert "Traceback" not in lines[0]
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("not json", "expected a JSON file"),
        ("[1]", "expected a mapping"),
        ('{"chanel": {}}', "channel"),
        ('{"channel": {"bet": 1}}', "beta"),
        ('{"channel": 3}', "mapping"),
        ('{"coord": {"norm": "ln"}}', "'gn'"),
        ('{"preset": "step2", "mix": null}', "mapping"),
        ("\x00\xff", "expected a JSON file"),
    ],
)
def test_a_wrong_config_file(
    text: str, named: str, call: Callable[..., Any], empty: Path, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    done = call("check", "--config", path)
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert named in done.err
    assert list(empty.iterdir()) == []


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="stp2"):
        main(["check", "--preset", "stp2", "--debug"])


def test_an_unexpected_error_is_one_line_and_status_1(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("several\nlines of it")

    monkeypatch.setattr("coordcbam.cli.check.checklist", broken)
    done = call("check")
    assert done.status == 1
    assert done.err == (
        "coordcbam check: RuntimeError: several lines of it (--debug shows where)\n"
    )
    with pytest.raises(RuntimeError, match="several"):
        main(["check", "--debug"])


def test_interrupting_is_no_traceback(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("coordcbam.cli.check.checklist", interrupted)
    done = call("check")
    assert (done.status, done.err) == (130, "coordcbam check: interrupted\n")


def test_every_option_has_a_flag_and_the_flag_acts(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    """Derived from the fields: a new option has a flag without a line here or there."""
    seen: list[BlockConfig] = []
    monkeypatch.setattr("coordcbam.cli.check.checklist", lambda config: seen.append(config) or [])
    pairs = {"t_min": 0.7, "t_max": 2.0, "scale_min": 0.7, "scale_max": 1.4, "r_max": 2.0}
    default = BlockConfig.step3()
    for part, rule in all_rules():
        if rule.kind is bool:
            value: Any = not rule.default
        elif rule.words:
            now = getattr(getattr(default, part), rule.name)
            value = [word for word in rule.words if word != now][-1]
        elif rule.kind is int:
            value = rule.default + 1
        else:
            value = pairs.get(rule.name, 0.25)
        done = call("check", f"--{rule.flag.replace('_', '-')}", value)
        assert done.status == 0, done.err
        assert getattr(getattr(seen[-1], part), rule.name) == value
    help_page = call("check", "--help").out
    assert all(f"--{rule.flag.replace('_', '-')}" in help_page for _, rule in all_rules())


def test_none_makes_a_mechanism_absent(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    seen: list[BlockConfig] = []
    monkeypatch.setattr("coordcbam.cli.check.checklist", lambda config: seen.append(config) or [])
    assert (
        call(
            *("check", "--preset", "step2"),
            *("--beta-ca", "None", "--ca-t-min", "none", "--ca-t-max", "none"),
        ).status
        == 0
    )
    assert seen[0].channel.beta is seen[0].channel.t_min is None


def test_a_config_file_is_read_back(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], tmp_path: Path
) -> None:
    seen: list[BlockConfig] = []
    monkeypatch.setattr("coordcbam.cli.check.checklist", lambda config: seen.append(config) or [])
    wanted = BlockConfig.from_notebook(beta_ca=0.6, coord_norm="bn")
    (tmp_path / "c.json").write_text(json.dumps({"preset": "step2", **wanted.to_dict()}))
    assert call("check", "--config", tmp_path / "c.json", "--r-min", "0.5").status == 0
    assert seen == [wanted.replace(r_min=0.5)]


def test_the_package_runs_as_a_module(child_environment: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coordcbam", "--version"],
        capture_output=True,
        text=True,
        env=child_environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("coordcbam ")
