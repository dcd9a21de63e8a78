"""``check`` and ``quicktest``: each live check fails when its mechanism is broken, and only it."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from coordcbam.block import BlockConfig, ChannelGate, CoordCBAM, CoordGate, GuardedResidual
from coordcbam.kernels import table
from coordcbam.notebook.checklist import checklist

NAMES = [check.name for check in checklist(BlockConfig.step2())]


@pytest.mark.parametrize("preset", ["step2", "step3"])
def test_it_passes_all_eight(preset: str, call: Callable[..., Any]) -> None:
    done = call("check", "--preset", preset)
    assert done.status == 0
    assert done.err == ""
    assert all(name in done.out for name in NAMES)
    assert len(NAMES) == len(set(NAMES)) == 8
    assert done.out.count("passed") == 8


def test_step1_has_none_of_them_and_that_is_fine(call: Callable[..., Any]) -> None:
    done = call("check", "--preset", "step1", "--json")
    assert done.status == 0
    assert {check["passed"] for check in json.loads(done.out)["checks"]} == {None}


def test_json_is_the_whole_of_stdout(call: Callable[..., Any]) -> None:
    done = call("check", "--json")
    document = json.loads(done.out)
    assert [check["name"] for check in document["checks"]] == NAMES
    assert document["preset"] == "step3"
    assert document["certificate"]["gain_min"] == pytest.approx(0.566875)
    assert document["certificate"]["rescue_can_fire"] is True
    assert "temperature clamp" in done.err  # the table is still there to read


def unclamped(self: ChannelGate, like: Tensor, _: Tensor | None = None) -> Tensor:
    return self.T.to(like)


def _without_router_temperature() -> Callable[..., Any]:
    whole = ChannelGate.gate

    def gate(self: ChannelGate, mean: Tensor, peak: Tensor) -> Any:
        kept = self.config
        self.config = dataclasses.replace(kept, router_temperature=None)
        try:
            return whole(self, mean, peak)
        finally:
            self.config = kept

    return gate


def _unclamped_gain() -> Callable[..., Any]:
    whole = CoordGate.gain
    return lambda self, *args: whole(self, *args)._replace(clamp=None)


def _always_acting() -> Callable[..., Any]:
    whole = GuardedResidual.blend

    def blend(self: GuardedResidual, *args: Any, **kwargs: Any) -> Any:
        kept, self.training = self.training, True
        try:
            return whole(self, *args, **kwargs)
        finally:
            self.training = kept

    return blend


FAULTS: list[tuple[str, type, str, Any]] = [
    ("temperature clamp", ChannelGate, "temperature", unclamped),
    ("router temperature", ChannelGate, "gate", _without_router_temperature()),
    ("soft channel scale", ChannelGate, "scale", lambda _self, gate: gate),
    ("coordinate scale clamp", CoordGate, "gain", _unclamped_gain()),
    ("calm coordinate heads", CoordGate, "_calm_heads", lambda *_: None),
    ("monitor only in training", GuardedResidual, "blend", _always_acting()),
    (
        "running average r_ema",
        GuardedResidual,
        "_average",
        lambda self, r_out: self.r_ema.copy_(r_out),
    ),
    ("rescue", GuardedResidual, "_rescued", lambda _self, alpha: alpha),
]
FAULTS_OF_STEP3: list[tuple[str, type, str, Any]] = [
    *FAULTS[:2],
    ("soft channel scale", ChannelGate, "scale", lambda _self, gate: gate + 0.5),
    FAULTS[3],
    ("calm coordinate heads", CoordCBAM, "_start_as_identity", lambda _: None),
    ("monitor only in training", GuardedResidual, "_acts", lambda self: self.monitor),
    ("running average r_ema", GuardedResidual, "momentum", 0.5),
    ("rescue", GuardedResidual, "_at_rest", lambda _self, alpha, _r_hat=None, **_: alpha),
]
CASES = [("step2", *fault) for fault in FAULTS] + [("step3", *fault) for fault in FAULTS_OF_STEP3]


@pytest.mark.parametrize(
    ("preset", "name", "owner", "method", "fault"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)
def test_a_broken_mechanism_fails_its_own_check(
    preset: str,
    name: str,
    owner: type,
    method: str,
    fault: Any,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Any],
) -> None:
    monkeypatch.setattr(table, "_chosen", "plain")  # which calls the layers that are broken here
    monkeypatch.setattr(owner, method, fault)
    done = call("check", "--json", "--preset", preset)
    assert done.status == 1
    checks = json.loads(done.out)["checks"]
    assert [check["name"] for check in checks if check["passed"] is not True] == [name]
    assert "FAILED" in done.err


OF_STEP2 = [
    "--learnable-temperature true",
    "--ca-temperature 5",
    "--ca-t-min 1 --ca-t-max 1",
    "--coord-beta -0.5",
    "--coord-beta 0",
    "--beta-ca 1.5",
    "--coord-scale-min 1.2",
    "--rescue-mode alpha_floor",
    "--learnable-alpha true --alpha-init 0.1",
    "--residual false",
    "--ca-fusion sum",
    "--coord-norm none --coord-use-spatial-gate true",
    "--ema-momentum 0.999 --r-min 1e-3",
    "--coord-head-init-std 2",
    "--min-rescue-ratio 1",
    "--ca-gate hardsigmoid --coord-learnable-alpha false",
    "--init calibrated",
]
OF_STEP3 = [
    "--learnable-temperature true",
    "--learnable-temperature true --ca-t-map softplus",
    "--ca-space log --coord-space log",
    "--coord-use-spatial-gate true --coord-norm none",
    "--beta-ca 1 --coord-beta 1",
    "--rescue-mode watch",
    "--r-min 0.9 --r-max 1.5",
    "--learnable-alpha true --alpha-init 0.999",
    "--residual false",
    "--init notebook",
    "--coord-scale-min none --coord-scale-max none",
]
SOUND = [("step2", words) for words in OF_STEP2] + [("step3", words) for words in OF_STEP3]


@pytest.mark.parametrize(("preset", "words"), SOUND)
def test_no_sound_config_fails(preset: str, words: str, call: Callable[..., Any]) -> None:
    """The checks are about mechanisms: an odd value is a note, not a failure."""
    done = call("check", "--preset", preset, *words.split(), "--json")
    failed = [c for c in json.loads(done.out)["checks"] if c["passed"] is False]
    assert failed == []
    assert done.status == 0


def test_checking_leaves_the_random_numbers_alone(call: Callable[..., Any]) -> None:
    before = torch.get_rng_state()
    call("check")
    assert torch.equal(torch.get_rng_state(), before)


def test_quicktest_shows_the_notebooks_section(call: Callable[..., Any]) -> None:
    done = call("quicktest", "--seed", 0)
    assert done.status == 0
    for word in ("ca_map: (2, 64, 1, 1)", "r_out_pre", "alpha_eff", "ratio_floor", "section 9"):
        assert word in done.out
    assert call("quicktest", "--seed", "0").out == done.out


def test_quicktest_as_json(call: Callable[..., Any]) -> None:
    document = json.loads(call("quicktest", "--json").out)
    assert document["shapes"]["out"] == [2, 64, 56, 56]
    assert 0.4 < document["monitor_stats"]["r_out_pre"] < 1
    assert document["reading"]["level"] == "ok"
