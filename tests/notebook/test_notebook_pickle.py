"""Every public class survives pickle into a process that has imported nothing of ours."""

import json
import pickle

import torch
from torch import nn

import coordcbam as cc
from _support import fresh
from coordcbam.notebook import step1, step2

CODE = """
import json, pickle, sys
import torch
assert not any(name.startswith("coordcbam") for name in sys.modules)
torch.set_num_threads(1)
things, x = torch.load(sys.argv[1], weights_only=False)
found = {}
for name, raw in things.items():
    thing = pickle.loads(raw)
    if isinstance(thing, torch.nn.Module):
        out = thing(x)
        out = out[0] if isinstance(out, tuple) else out
        found[name] = [type(thing).__module__, type(thing).__name__, out.double().sum().item()]
    else:
        found[name] = [type(thing).__module__, type(thing).__name__, repr(thing)]
print(json.dumps(found))
"""


@torch.no_grad()
def test_every_public_class_in_a_fresh_process(tmp_path, child_environment):
    x = torch.randn(2, 8, 6, 5)
    host = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    insertion = cc.insert_(host, "0", inputs=x)
    things = {
        "CoordCBAM": cc.CoordCBAM(8),
        "host with hooks": host,
        **{f"1.{n}": getattr(step1, n)(8) for n in NAMES},
        **{f"2.{n}": getattr(step2, n)(8) for n in NAMES},
        "BlockConfig": cc.BlockConfig.step1(),
        "Insertion": insertion,
        "Stats": cc.CoordCBAM(8).eval().trace(x).stats,
        "Trace": cc.CoordCBAM(8).eval().trace(x.clone())._replace(out=torch.zeros(1)),
    }
    expected = {}
    for name, thing in things.items():
        if isinstance(thing, nn.Module):
            out = thing.eval()(x)
            out = out[0] if isinstance(out, tuple) else out
            value = out.double().sum().item()
        else:
            value = repr(thing)
        expected[name] = [type(thing).__module__, type(thing).__name__, value]
    path = tmp_path / "things.pt"
    torch.save(({name: pickle.dumps(thing) for name, thing in things.items()}, x), path)
    found = fresh.run(CODE, child_environment, path)
    assert found == json.loads(json.dumps(expected))
    assert found["CoordCBAM"][0] == found["BlockConfig"][0] == "coordcbam"
    assert found["1.CoordinateAttPlus"][0] == "coordcbam.notebook.step1"


NAMES = ("CBAMChannelPlusCoord", "ChannelAttentionFusionT", "CoordinateAttPlus")


def test_paths_in_the_bytes_are_the_permanent_ones():
    """Where a class lies in the source may change, what a file says may not."""
    raw = pickle.dumps([cc.CoordCBAM(8), cc.BlockConfig.step2()])
    for moving in (b"coordcbam.block", b"coordcbam.kernels", b"coordcbam._support"):
        assert moving not in raw
    raw = pickle.dumps(step2.CBAMChannelPlusCoord(8))
    assert b"coordcbam.notebook.step2" in raw
    assert b"coordcbam.notebook.adapters" not in raw
    model = nn.Sequential(nn.Conv2d(3, 8, 1))
    cc.insert_(model, "0", inputs=torch.zeros(1, 3, 4, 4))
    assert b"coordcbam.insert" not in pickle.dumps(model)
