"""Every argument of the public constructors that is no option: how to call, and what is wrong."""

import tempfile

import torch
from torch import nn

import coordcbam as cc
from _support import wrong
from coordcbam.notebook import step1, step2

X = torch.zeros(1, 3, 8, 8)
PLACE = {"path": "0", "channels": 8}


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())


def block(v=8, config=None):
    return cc.CoordCBAM(v, config)


def channel(v=8, config=None, **words):
    return cc.ChannelGate(v, config, **words)


def coord(v=8, config=None):
    return cc.CoordGate(v, config)


def guard(r_min=0.9, **words):
    return cc.Guard(nn.ReLU(), r_min, **words)


def guarded(at="1", **words):
    return cc.guard_(plain(), at, **words)


def inserted(at="0", **words):
    return cc.insert_(plain(), at, **{"inputs": X, **words})


def watched(folder=None, **words):
    """A monitor of one block, closed again if it was made."""
    model = plain()
    cc.insert_(model, "0", inputs=X)
    with tempfile.TemporaryDirectory() as made, cc.Monitor(model, folder or made, **words) as it:
        it.step()


def stepped(epoch):
    model = nn.Sequential(block())
    with tempfile.TemporaryDirectory() as folder, cc.Monitor(model, folder) as monitor:
        monitor.step(epoch)


def insert_spec(**changed):
    whole = {"version": 1, "places": [PLACE], "config": {}, **changed}
    return inserted({key: value for key, value in whole.items() if value != "absent"})


def guard_spec(**changed):
    whole = {"version": 1, "places": [{"path": "1"}], "guard": {}, **changed}
    return guarded({key: value for key, value in whole.items() if value != "absent"})


def of(*names):
    """Attributes of the package and of both notebook steps, by name."""
    return [getattr(place, name) for name in names for place in (step1, step2)]


# One wrong argument at a time: the call, the word that has to name it, its wrong values.
GATES = [
    *((call, "channels", wrong.CHANNELS) for call in (block, channel, coord)),
    *(
        (call, "channels", wrong.CHANNELS)
        for call in of("CBAMChannelPlusCoord", "ChannelAttentionFusionT", "CoordinateAttPlus")
    ),
    (lambda v: block(8, v), "config", wrong.NOT_PARTS[:-1]),
    (lambda v: channel(8, v), "config", [*wrong.NOT_PARTS, cc.CoordConfig()]),
    (lambda v: coord(8, v), "config", [*wrong.NOT_PARTS, cc.ChannelConfig()]),
    (lambda v: channel(eps=v), "eps", wrong.NOT_EPS),
    (lambda v: channel(bias=v), "bias", wrong.NOT_FLAGS),
    (lambda v: step1.ChannelAttentionFusionT(8, eps=v), "eps", wrong.NOT_EPS),
    (lambda v: step2.ChannelAttentionFusionT(8, bias=v), "bias", wrong.NOT_FLAGS),
    *(
        (lambda v, c=c: c(8, return_fusion_weights=v), "return_fusion_weights", wrong.NOT_FLAGS)
        for c in of("ChannelAttentionFusionT")
    ),
    *(
        (lambda v, c=c: c(8, return_maps=v), "return_maps", wrong.NOT_FLAGS)
        for c in of("CBAMChannelPlusCoord")
    ),
    (lambda v: setattr(block(), "monitor", v), "monitor", wrong.NOT_FLAGS),
]
CONFIGS = [
    *(
        (lambda v, part=part: cc.BlockConfig(**{part: v}), part, wrong.NOT_PARTS)
        for part in ("channel", "coord", "mix", "rescue")
    ),
    (cc.BlockConfig.from_notebook, "step", wrong.NOT_STEPS),
    (cc.BlockConfig.preset, "preset", wrong.NOT_PRESETS),
    (cc.BlockConfig.from_dict, "config", [None, *wrong.NOT_CONFIGS[1:]]),
    (lambda v: cc.BlockConfig.from_dict({"mix": v}), "mix", wrong.NOT_CONFIGS[1:]),
    (lambda v: cc.BlockConfig.from_dict({v: {}}), "unknown option", [1, None, "chanel", b"mix"]),
    (lambda v: cc.BlockConfig.from_dict({"mix": {v: 1}}), "unknown option", [1, None, "bta"]),
    (cc.certify, "config", [None, *wrong.NOT_PARTS[:-1]]),
]
GUARDS = [
    (lambda v: cc.GuardedResidual(v, None), "mix", wrong.NOT_PARTS),
    (lambda v: cc.GuardedResidual(None, v), "rescue", wrong.NOT_PARTS),
    (cc.Guard, "inner", wrong.NOT_MODELS[1:]),
    *(
        entry
        for call in (guard, guarded)
        for entry in (
            (lambda v, c=call: c(r_min=v), "r_min", wrong.NOT_R_MIN),
            (lambda v, c=call: c(r_max=v), "r_max", wrong.NOT_R_MAX),
            (lambda v, c=call: c(watch=True, r_max=v), "r_max", [1.5, 2.0]),
            (lambda v, c=call: c(momentum=v), "momentum", wrong.NOT_MOMENTUM),
            (lambda v, c=call: c(watch=v), "watch", wrong.NOT_FLAGS),
        )
    ),
]
MODELS = [
    *((lambda v, c=c: c(v, "0"), "model", wrong.NOT_MODELS) for c in (cc.plan, cc.insert_)),
    *((lambda v, c=c: c(v, 0.1), "model", wrong.NOT_MODELS) for c in (cc.guard_, cc.Monitor)),
    *((c, "model", wrong.NOT_MODELS) for c in (cc.remove_, cc.blocks, cc.commit_)),
    (lambda v: cc.bypass(v).__enter__(), "model", wrong.NOT_MODELS),
    (lambda v: cc.parameter_groups(v, 0.1), "model", wrong.NOT_MODELS),
    (lambda v: cc.parameter_groups(plain(), v), "weight_decay", wrong.NOT_DECAYS),
    (guarded, "", wrong.NOT_PLACES),
    (inserted, "", wrong.NOT_PLACES),
    (lambda v: inserted(config=v), "config", wrong.NOT_PARTS[:-1]),
    (lambda v: inserted(monitor=v), "monitor", wrong.NOT_FLAGS),
    (lambda v: inserted(inputs=v), "inputs", [None]),
    (lambda v: cc.plan(plain(), "0", config=v, inputs=X), "config", wrong.NOT_PARTS[:-1]),
]
SPECS = [
    *(
        entry
        for call in (insert_spec, guard_spec)
        for entry in (
            (lambda v, c=call: c(version=v), "version", [None, "1", 99, -1]),
            (lambda v, c=call: c(places=v), "places", [None, 3, "0", {}]),
            (lambda v, c=call: c(places=[v]), "places", [None, 3, "0", []]),
            (lambda v, c=call: c(places=[v]), "path", [{}, {"channels": 8}]),
        )
    ),
    (lambda v: insert_spec(places=[{"path": "0", "channels": v}]), "channels", [None]),
    (lambda v: insert_spec(places=[{**PLACE, "channels": v}]), "channels", wrong.CHANNELS[:8]),
    (lambda v: insert_spec(config=v), "config", [None, 3, "step3", []]),
    (lambda v: insert_spec(monitor=v), "monitor", wrong.NOT_FLAGS),
    (lambda v: guard_spec(guard=v), "guard", [None, 3, "watch", []]),
    (lambda v: guard_spec(guard={v: 1}), "unknown option", ["rmin", 1, None]),
    (lambda v: guard_spec(guard={"r_min": v}), "r_min", wrong.NOT_R_MIN),
]
MONITORS = [
    (lambda v: watched(every=v), "every", wrong.NOT_COUNTS),
    (lambda v: watched(first_step=v), "first_step", [-1, 1.5, "1", True, None, wrong.NAN, []]),
    (lambda v: watched(commits=v), "commits", wrong.NOT_FLAGS),
    (lambda v: watched(folder=v), "out_dir", [3, b"run", 1.5, ["run"], nn.ReLU]),
    (lambda v: watched(host=v), "host", [3, None, [], b"torch"]),
    (lambda v: watched(command=v), "command", [3, None, [], b"train"]),
    (lambda v: watched(versions=v), "versions", [3, "2.0", [1], b"x"]),
    (stepped, "epoch", [-1, 1.5, "1", True, wrong.NAN, []]),
]
