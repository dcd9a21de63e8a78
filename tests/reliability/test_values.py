"""Every public constructor refuses what it cannot use, and says which argument, value and rule.

A value that passes here would surface as torch's own error hours later, or as NaN.
"""

import pytest
import torch
from torch import nn

import coordcbam as cc
from _support import arguments, wrong, wrong_tensors
from _support.every_block import GUARDS, MAKERS, monitored
from _support.refusal import accepted
from coordcbam.block import PRESETS
from coordcbam.notebook import step1, step2

PARTS = {
    "channel": cc.ChannelConfig,
    "coord": cc.CoordConfig,
    "mix": cc.MixConfig,
    "rescue": cc.RescueConfig,
}


def notebook(name, own_part=None):
    """The calls that hand an option to a notebook class, in each step that knows it."""

    def calls(part, rule, value):
        key = rule.name if own_part else rule.flag
        key = "beta_ca" if (own_part, key) == ("channel", "beta") else key
        for step, module in ((1, step1), (2, step2)):
            later = step == 1 and (rule.optional or part == "rescue")
            if not (rule.ours or later or own_part not in (None, part)):
                yield lambda module=module: getattr(module, name)(8, **{key: value})

    return calls


ROUTES = {
    "parts": lambda part, rule, value: [lambda: PARTS[part](**{rule.name: value})],
    "CoordCBAM": lambda part, rule, value: [
        lambda: cc.CoordCBAM(8, cc.BlockConfig.step3().replace(**{rule.flag: value}))
    ],
    "from_dict": lambda part, rule, value: [
        lambda: cc.BlockConfig.from_dict({part: {rule.name: value}})
    ],
    "CBAMChannelPlusCoord": notebook("CBAMChannelPlusCoord"),
    "ChannelAttentionFusionT": notebook("ChannelAttentionFusionT", "channel"),
    "CoordinateAttPlus": notebook("CoordinateAttPlus", "coord"),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_option_refuses_a_wrong_value(route, figure):
    failures, tried = [], 0
    for part, rule, value in wrong.wrong_options():
        words = (rule.name, rule.flag, "expected ")
        for call in ROUTES[route](part, rule, value):
            tried += 1
            if reason := accepted(call, *words, value=value):
                failures.append(f"{rule.flag}: {reason}")
    assert not failures, "\n".join(failures[:20])
    assert tried >= 300
    figure(f"bad values refused, {route}", f"{tried} of {tried}", ">= 300, 100 %")


def test_options_that_do_not_fit_together_are_refused(figure):
    for preset, changes, words in wrong.TOGETHER:
        config = cc.BlockConfig.preset(preset)
        reason = accepted(lambda c=config, w=changes: cc.CoordCBAM(8, c.replace(**w)), words)
        assert reason is None, f"{preset} with {changes}: {reason}"
    figure("bad combinations refused", f"{len(wrong.TOGETHER)} of {len(wrong.TOGETHER)}", "100 %")


@pytest.mark.parametrize("room", ["GATES", "CONFIGS", "GUARDS", "MODELS", "SPECS", "MONITORS"])
def test_every_other_argument_refuses_a_wrong_value(room, figure):
    failures, tried = [], 0
    for call, name, values in getattr(arguments, room):
        for value in values:
            tried += 1
            if reason := accepted(lambda c=call, v=value: c(v), name, value=value):
                failures.append(f"{name}: {reason}")
    assert not failures, "\n".join(failures[:20])
    figure(f"bad arguments refused, {room.lower()}", f"{tried} of {tried}", "100 %")


def numbers(block):
    """Everything that a forward may change."""
    kept = {name: buffer.clone() for name, buffer in block.named_buffers()}
    return kept | ({"tally": block.tally.clone()} if hasattr(block, "tally") else {})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_a_wrong_tensor_is_refused_and_changes_nothing(name, training, figure):
    layer, block = monitored(name, training=training, inner=nn.Identity)
    before = numbers(block)
    cases = wrong_tensors.for_every_block()
    cases += [] if name in GUARDS else wrong_tensors.for_our_blocks()
    its_name = f"{type(block).__name__}: got "
    failures = []
    for call in [layer, *([layer.trace] if isinstance(layer, cc.CoordCBAM) else [])]:
        reasons = (accepted(lambda x=x: call(x), its_name, words) for _, x, words in cases)
        failures += [f"{case[0]}: {r}" for case, r in zip(cases, reasons, strict=True) if r]
    assert not failures, "\n".join(failures)
    assert len(cases) >= 40
    for key, value in numbers(block).items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num()), key
    where = f"{name}, {'train' if training else 'eval'}"
    figure(f"bad tensors refused, {where}", f"{len(cases)} of {len(cases)}", ">= 40, 100 %")


@pytest.mark.parametrize("name", [*PRESETS, "Guard"])
def test_autocast_excuses_only_the_dtypes_it_casts(name):
    layer, _ = monitored(name)
    wrong_ones = ["int64", "bool", "complex64", "float8_e4m3fn", "float8_e5m2"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for case in wrong_ones + ([] if name == "Guard" else ["float64"]):
            x = wrong_tensors.MAP.to(getattr(torch, case))
            reason = accepted(lambda x=x: layer(x), f"got dtype torch.{case}, expected ")
            assert reason is None, reason


class Gives(nn.Module):
    """A block that makes the same of every input."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def around(inner, *, attached):
    if not attached:
        return cc.Guard(inner)
    model = nn.Sequential(inner)
    cc.guard_(model, "0")
    return model


@pytest.mark.parametrize("attached", [True, False])
def test_a_guard_refuses_what_is_no_map_of_its_inputs_shape(attached, figure):
    cases = [
        (case, output, words if isinstance(output, torch.Tensor) else f"made {case[2:]} of")
        for case, output, words in wrong_tensors.for_every_block()
    ]
    shapes = [*wrong_tensors.WIDTHS, (1, 8, 4, 4), (2, 8, 2, 2), (2, 8, 4, 5)]
    cases += [(f"{s}", torch.ones(s), f"made {s} of (2, 8, 4, 4)") for s in shapes]
    for case, output, words in cases:
        guard = around(Gives(output), attached=attached)
        reason = accepted(lambda g=guard: g(wrong_tensors.MAP), "Guard: the block", words)
        assert reason is None, f"{case}: {reason}"
    where = "attached" if attached else "around it"
    figure(f"bad outputs refused, guard {where}", f"{len(cases)} of {len(cases)}", "100 %")
