"""A block costs its parameters and nothing else: no kept activations, no host syncs, no breaks.

Each of these is invisible in a small test and ruins a large run: checkpoints that grow with the
image, a GPU that waits for Python in every layer, a compiler that gives up.
"""

import io
import pickle
import weakref

import pytest
import torch

import coordcbam as cc
from _support.every_block import CHANNELS, MAKERS, monitored
from _support.held import own_tensors, tensors_in
from _support.syncs import Syncs, every_layer

BIG = (2, CHANNELS, 96, 80)


def first(output):
    """The map in what a layer gives: itself, the trace's, or the first of the notebook's tuple."""
    return output[0] if isinstance(output, tuple) else output


def use(layer, shape=BIG, device="cpu"):
    """Everything a run does to a layer: training steps, commits, traces, eval."""
    traced = [layer.trace] if isinstance(layer, cc.CoordCBAM) else []
    for call in [layer, *traced]:
        layer.train()
        x = torch.randn(shape, device=device, requires_grad=True)
        first(call(x)).square().sum().backward()
        layer.zero_grad()
        cc.commit_(layer)
        layer.eval()
        with torch.no_grad():
            call(x)


def saved_size(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    return len(pickle.dumps(layer)), len(file.getvalue())


@pytest.mark.parametrize("name", MAKERS)
def test_a_pickled_block_does_not_grow(name, figure):
    layer, _ = monitored(name)
    before = saved_size(layer)
    use(layer)
    after = saved_size(layer)
    assert after == before
    growth = max(new / old for new, old in zip(after, before, strict=True))
    figure(f"pickle growth, {name}", f"x{growth:.2f} ({before[0]} bytes)", "x1.00")


@pytest.mark.parametrize("name", MAKERS)
def test_no_tensor_is_kept_between_forwards(name, figure):
    layer, _ = monitored(name)
    use(layer)
    held, own = tensors_in(layer), {id(tensor) for tensor in own_tensors(layer)}
    extra = [tuple(tensor.shape) for tensor in held if id(tensor) not in own]
    assert len(held) >= len(own) > 0
    assert extra == []
    assert all(tensor.grad_fn is None for tensor in held)  # nor a graph behind one of its own
    figure(f"tensors kept, {name}", f"{len(extra)} of {len(held)} are no state", "0")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_the_input_is_let_go(name, training):
    layer, _ = monitored(name, training=training)
    x = torch.randn(BIG)
    gone = weakref.ref(x)
    out = layer(x)
    del x, out
    assert gone() is None


def test_what_is_kept_would_be_found():
    """The search sees an attribute, a container, a closure and a hook."""
    layer, x = torch.nn.ReLU(), torch.ones(3)
    for hide in (
        lambda: setattr(layer, "last", x),
        lambda: setattr(layer, "cache", {"maps": [(x,)]}),
        lambda: layer.register_forward_hook(lambda *_: x),
        lambda: setattr(layer, "call", torch.nn.Identity()) or setattr(layer.call, "y", x),
    ):
        layer = torch.nn.ReLU()
        hide()
        assert any(tensor is x for tensor in tensors_in(layer))


def test_no_operation_waits_for_the_device(figure):
    """Forward, trace, backward and commit; also on a device whose numbers nobody can read."""
    operations = 0
    for name, layer in every_layer():
        with Syncs() as syncs:
            use(layer, (2, CHANNELS, 6, 5))
        assert syncs.count == 0, name
        operations += syncs.operations
        use(layer.to("meta"), (2, CHANNELS, 6, 5), device="meta")
    figure("host syncs", f"0 of {operations} operations", "0")


def test_a_wait_would_be_counted_or_fail_without_data():
    numbers = cc.CoordCBAM(CHANNELS).stats
    for wait in (numbers[0].item, lambda: bool(numbers[0]), numbers.nonzero):
        with Syncs() as syncs:
            wait()
        assert syncs.count > 0
    nowhere = numbers.to("meta")
    for wait in (nowhere.tolist, nowhere.numpy, nowhere.cpu, nowhere[0].item):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            wait()


MODES = [
    *(("step3", mode) for mode in ("train", "eval", "monitor", "trace")),
    *(("Guard", mode) for mode in ("train", "eval", "monitor")),
    *((name, "monitor") for name in ("step2", "inserted", "guarded")),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "mode"), MODES)
def test_one_graph_and_no_break(name, mode, figure):
    layer, block = monitored(name, training=mode != "eval")
    block.monitor = mode in ("monitor", "trace")
    call = layer.trace if mode == "trace" else layer
    torch._dynamo.reset()
    found = torch._dynamo.explain(call)(torch.randn(2, CHANNELS, 6, 5))
    torch._dynamo.reset()
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
    figure(f"graph breaks, {name}, {mode}", found.graph_break_count, "0")
