"""The golden files: reading them, building their block, replaying their calls."""

import dataclasses
import importlib
import json
from pathlib import Path

import torch
from safetensors import safe_open

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
INIT = json.loads((FOLDER / "init.json").read_text(encoding="utf-8"))["cases"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One file: how to build, what to call, and every tensor in it."""

    step: int
    kwargs: dict
    calls: list
    monitor: list
    coord: list
    tensors: dict

    @property
    def options(self):
        """The notebook's arguments that are options of the block."""
        return {k: v for k, v in self.kwargs.items() if k not in ("channels", "return_maps")}

    def weights(self):
        return {k[2:]: v for k, v in self.tensors.items() if k.startswith("w.")}

    def gradients(self):
        return {k[3:]: v for k, v in self.tensors.items() if k.startswith("gw.")}

    def get(self, name, call):
        return self.tensors.get(f"{name}.{call}")


def load(name):
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        case = json.loads(file.metadata()["case"])
        return Case(**case, tensors={key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118


def notebook_class(step, name="CBAMChannelPlusCoord"):
    return getattr(importlib.import_module(f"coordcbam.notebook.step{step}"), name)


def notebook_block(case, dtype=torch.float64, **changed):
    block = notebook_class(case.step)(**{**case.kwargs, **changed}).to(dtype)
    block.load_state_dict(case.weights(), strict=True)
    return block


def replay(block, case, call, dtype=torch.float64):
    """Yield what ``call(block, x)`` returns, call by call; the last input wants a gradient."""
    for i, mode in enumerate(case.calls):
        x = case.get("x", i).to(dtype)
        if i == len(case.calls) - 1:
            x.requires_grad_()
        block.train(mode["train"])
        yield i, x, call(block, x)


ROUNDING = 1e-16  # of sums that are 0: some processors give 0 where the notebook's gave 2e-19


def assert_near(got, want, rel=1e-10, what=""):
    """Within ``rel`` of the expected tensor's largest element; None only for None."""
    assert (got is None) == (want is None), f"{what}: got {got}, expected {want}"
    if want is None:
        return
    want = torch.as_tensor(want, dtype=torch.float64)
    got = torch.as_tensor(got, dtype=torch.float64).detach()
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
    limit = max(rel * float(want.abs().max()), ROUNDING) if want.numel() else 0.0
    torch.testing.assert_close(got, want, rtol=rel, atol=limit, msg=lambda m: f"{what}: {m}")


def buffers(block):
    return {name: tensor.clone() for name, tensor in block.named_buffers() if name != "stats"}


def assert_same_buffers(one, other):
    a, b = buffers(one), buffers(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name].nan_to_num(nan=-9), b[name].nan_to_num(nan=-9)), name
