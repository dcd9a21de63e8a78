"""The whole block by every kernel: the oracle's output and every gradient of it."""

import copy
import gc
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.autograd.forward_ad as forward
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

from _support.shaken import shaken
from coordcbam import BlockConfig, CoordCBAM
from coordcbam.kernels import cpu, elementwise, kernel_for, library, use
from coordcbam.kernels.opened import Opened

LAYOUTS = ("NCHW", "NHWC", "strided", "turned")
# Every remainder of a vector, one pixel, one row, one column, more channels than a chunk.
SIZES = [
    *((1, 1, 1, 1), (2, 3, 1, 9), (3, 8, 7, 1), (2, 7, 19, 20), (1, 33, 20, 21)),
    *((2, 64, 20, 20), (1, 65, 5, 33), (3, 12, 8, 16), (2, 130, 4, 7)),
]
CONFIGS = {
    "step1": BlockConfig.step1(),
    "step2": BlockConfig.step2(),
    "step3": BlockConfig.step3(),
    "step3 log": BlockConfig.step3(space="log"),
    "learns": BlockConfig.step3(learnable_alpha=True, learnable_temperature=True),
    "bn": BlockConfig.step2(coord_norm="bn"),
    "none": BlockConfig.step2(coord_norm="none", ca_fusion="sum", coord_act="silu"),
    "spatial": BlockConfig.step3().replace(coord_use_spatial_gate=True),
    "negative": BlockConfig.from_notebook(beta_ca=1.5),
    # The clamp binds in places, and the gradient of what it cuts off is none.
    "clamped": BlockConfig.step2(coord_scale_min=0.75, coord_scale_max=0.95, coord_beta=1.0),
}
# Parts of the largest element: what PyTorch's own orders of summing differ by, and twice that.
NEAR = {torch.float64: 1e-10, torch.float32: 1e-4}
OUT = {torch.float64: 1e-12, torch.float32: 2e-6}
# In float64 "auto" is "algebra", as a test below makes sure.
KERNELS = {torch.float64: ("algebra",), torch.float32: ("algebra", "auto")}
EACH = [pytest.param(dtype, kernel) for dtype, names in KERNELS.items() for kernel in names]
OPERATORS = {
    name: thing for name, thing in vars(library).items() if hasattr(thing, "register_fake")
}
built = pytest.mark.skipif(cpu.missing() is not None, reason=str(cpu.missing()))


def made(name, channels, dtype=torch.float32):
    torch.manual_seed(channels)
    block = shaken(CoordCBAM(channels, CONFIGS[name])).to(dtype)
    for key, buffer in block.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.3, 2.0)
    block.monitor = False
    return block.train()


def drawn(size, layout="NCHW", dtype=torch.float32):
    batch, channels, height, width = size

    def normal(*shape):
        return torch.randn(shape, dtype=dtype)

    if layout == "NHWC":
        return normal(*size).contiguous(memory_format=torch.channels_last)
    return {
        "NCHW": lambda: normal(*size),
        "strided": lambda: normal(batch, channels, height, 2 * width)[..., ::2],
        "turned": lambda: normal(batch, channels, width, height).transpose(2, 3),
        "channels": lambda: normal(batch, 2 * channels, height, width)[:, channels:],
        "crop": lambda: normal(batch, channels, height + 3, width + 5)[..., 2:-1, 1:-4],
        "samples": lambda: normal(1, channels, height, width).expand(size),
        "columns": lambda: normal(batch, channels, height, 1).expand(size),  # each row one tie
        "batch last": lambda: normal(channels, height, width, batch).permute(3, 0, 1, 2),
    }[layout]()


def weighing(out):
    """A gradient that weighs each element differently."""
    return torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).view(out.shape)


def run(block, x, kernel):
    """Output and every gradient, of a loss that weighs each element differently."""
    return run_itself(copy.deepcopy(block), x, kernel)


def run_itself(block, x, kernel):
    use(kernel)
    block.zero_grad()
    x = x.detach().requires_grad_()
    out = block(x)
    out.backward(weighing(out))
    grads = {name: p.grad for name, p in block.named_parameters()}
    return out.detach(), {"x": x.grad, **grads}, dict(block.named_buffers())


def off(found, wanted):
    return (
        (found.double() - wanted.double()).abs().max() / wanted.abs().max().clamp_min(1e-2)
    ).item()


def agree(found, wanted, dtype):
    assert off(found[0], wanted[0]) < OUT[dtype]
    assert found[1].keys() == wanted[1].keys()
    for name, exact in wanted[1].items():
        assert (found[1][name] is None) == (exact is None), name
        if exact is not None:
            assert found[1][name].shape == exact.shape, name
            # Of the router's gradient most cancels: its branches differ by little. So may alpha's.
            often = 10 if "router" in name or name == "alpha_raw" else 1
            assert off(found[1][name], exact) < NEAR[dtype] * often, name
    for name, buffer in wanted[2].items():
        mine = found[2][name].double()
        torch.testing.assert_close(mine, buffer.double(), equal_nan=True, rtol=1e-5, atol=1e-6)


def cases():
    for number, (name, size) in enumerate(itertools.product(CONFIGS, SIZES)):
        if name == "bn" and size[0] * (size[2] + size[3]) < 8:
            continue  # a batch norm divides by next to nothing
        for dtype in NEAR:
            layouts = LAYOUTS if number % 3 == 0 else LAYOUTS[number % 2 :: 2]
            yield from (pytest.param(name, size, dtype, layout) for layout in layouts)


ALL = list(cases())


def test_there_are_more_than_two_hundred_cases():
    assert len(ALL) >= 200


@pytest.mark.parametrize(("name", "size", "dtype", "layout"), ALL)
def test_outputs_and_gradients_are_the_oracle_s(name, size, dtype, layout):
    block, x = made(name, size[1], dtype), drawn(size, layout, dtype)
    exact = run(copy.deepcopy(block).double(), x.double(), "plain")
    for kernel in KERNELS[dtype]:
        agree(run(block, x, kernel), exact, dtype)


@built
@pytest.mark.parametrize("name", CONFIGS)
def test_what_auto_means_here(name):
    block, x = made(name, 8), drawn((2, 8, 6, 5))
    own = "algebra" if name in ("spatial", "negative") else "cpu"
    assert kernel_for(x, block.side)[0].name == own
    assert kernel_for(x.double(), block.double().side)[0].name == "algebra"


@pytest.mark.parametrize(("dtype", "kernel"), EACH)
@pytest.mark.parametrize("layout", ["channels", "crop", "samples", "columns", "batch last"])
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "bn", "spatial"])
def test_views_of_every_kind(name, layout, dtype, kernel):
    for size in [(2, 7, 19, 20), (3, 33, 5, 21)]:
        block, x = made(name, size[1], dtype), drawn(size, layout, dtype)
        assert layout == "channels" or not x.is_contiguous()
        exact = run(copy.deepcopy(block).double(), x.double(), "plain")
        agree(run(block, x, kernel), exact, dtype)


@pytest.mark.parametrize("layout", [*LAYOUTS, "samples"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_operators_of_compiled_graphs_have_the_oracle_s_gradients(name, layout, monkeypatch):
    """Called one by one, without a compiler's time."""
    for size, dtype in itertools.product([(2, 7, 19, 20), (1, 33, 5, 21)], NEAR):
        block, x = made(name, size[1], dtype), drawn(size, layout, dtype)
        exact = run(copy.deepcopy(block).double(), x.double(), "plain")
        with monkeypatch.context() as patch:
            patch.setattr(
                "coordcbam.block.cbam.attend", lambda x, side: Opened(x, side, library.PASSES)
            )
            agree(run(block, x, "auto"), exact, dtype)


@pytest.mark.parametrize(("dtype", "kernel"), EACH)
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "bn", "learns"])
def test_what_is_measured_besides_changes_nothing(name, dtype, kernel):
    """With the monitor on; ``agree`` looks at its numbers among the buffers."""
    for size in [(2, 7, 19, 20), (3, 33, 5, 21)]:
        block, x = made(name, size[1], dtype), drawn(size, dtype=dtype)
        block.monitor = name != "step1"
        exact = run(copy.deepcopy(block).double(), x.double(), "plain")
        if block.monitor:
            assert not exact[2]["stats"].isnan().all()
        agree(run(block, x, kernel), exact, dtype)


@pytest.mark.parametrize("kind", ["one number", "NHWC", "turned", "zero"])
@pytest.mark.parametrize(("dtype", "kernel"), EACH)
def test_gradients_come_in_any_layout(dtype, kernel, kind):
    size = (2, 7, 19, 20)
    block, x = made("step2", 7, dtype), drawn(size, dtype=dtype)
    by = {
        "one number": torch.full((1, 1, 1, 1), 0.3, dtype=dtype).expand(size),
        "zero": torch.zeros(size, dtype=dtype),
    }.get(kind)
    by = drawn(size, kind, dtype) if by is None else by

    def grads(kernel):
        use(kernel)
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(block(leaf), [leaf, *block.parameters()], by, allow_unused=True)

    for found, wanted in zip(grads(kernel), grads("plain"), strict=True):
        assert (found is None) == (wanted is None)
        if found is not None:
            assert off(found, wanted) < 10 * NEAR[dtype]
            assert kind != "zero" or not found.any()


@pytest.mark.parametrize(("dtype", "kernel"), EACH)
def test_a_block_may_be_called_twice_in_a_graph(dtype, kernel):
    block, x = made("step2", 7, dtype), drawn((2, 7, 9, 11), dtype=dtype)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return self.block(self.block(x).flip(3))

    agree(run(Twice(), x, kernel), run(Twice(), x, "plain"), dtype)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "strided", "samples"])
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "none", "spatial"])
def test_bfloat16_is_as_near_as_the_oracle_in_bfloat16(name, layout):
    dtype, eps = torch.bfloat16, torch.finfo(torch.bfloat16).eps
    for size in [(1, 1, 1, 1), (2, 3, 1, 9), (2, 7, 19, 20), (1, 33, 20, 21), (3, 64, 7, 5)]:
        block, x = made(name, size[1], dtype), drawn(size, layout, dtype)
        exact = run(copy.deepcopy(block).double(), x.double(), "plain")
        mine, theirs = run(block, x, "auto"), run(block, x, "plain")
        assert mine[0].dtype == mine[1]["x"].dtype == dtype
        assert off(mine[0], exact[0]) < 2 * eps
        assert off(mine[1]["x"], exact[1]["x"]) < 4 * eps + 2 * off(theirs[1]["x"], exact[1]["x"])
        # Single numbers cancel by chance in either; many together do not.
        errors = [
            sum(min(off(by[1][k], g), 0.25) for k, g in exact[1].items() if g is not None)
            for by in (mine, theirs)
        ]
        assert errors[0] < 2 * errors[1] + len(exact[1]) * eps


@pytest.mark.parametrize("name", ["step2", "step3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_as_near_as_they_can_be(name, dtype):
    block, x = made(name, 16, dtype), drawn((2, 16, 9, 13), dtype=dtype)
    exact = run(copy.deepcopy(block).double(), x.double(), "plain")
    mine, theirs = run(block, x, "auto"), run(block, x, "plain")
    eps = torch.finfo(dtype).eps
    assert off(mine[0], exact[0]) < 8 * eps
    for key, wanted in exact[1].items():
        assert off(mine[1][key], wanted) < 16 * eps + 4 * off(theirs[1][key], wanted), key


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "strided"])
@pytest.mark.parametrize("kernel", ["algebra", "auto", "operators"])
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "spatial", "negative"])
def test_ties_are_shared_as_the_oracle_shares_them(name, kernel, layout, monkeypatch):
    """The first of a channel's maxima has all of its gradient, those of a row or column the same."""
    block = made(name, 6)
    x = drawn((3, 6, 9, 13), layout)
    x.copy_(torch.randint(-2, 3, x.shape))
    x[1] = 1.0
    exact = run(copy.deepcopy(block).double(), x.double(), "plain")
    if kernel == "operators":
        monkeypatch.setattr(
            "coordcbam.block.cbam.attend", lambda x, side: Opened(x, side, library.PASSES)
        )
    agree(run(block, x, "auto" if kernel == "operators" else kernel), exact, torch.float32)


@pytest.mark.parametrize(("dtype", "kernel"), EACH)
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "bn"])
def test_thirty_two_steps_lose_alike(name, dtype, kernel):
    def losses(kernel):
        use(kernel)
        torch.manual_seed(0)
        block = CoordCBAM(8, CONFIGS[name]).train()
        net = nn.Sequential(nn.Conv2d(3, 8, 3), block, nn.ReLU(), nn.Conv2d(8, 4, 3)).to(dtype)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
        found = []
        for _ in range(32):
            x = torch.randn(4, 3, 14, 17, dtype=dtype)
            loss = (net(x) - x.mean(dim=1, keepdim=True)[..., 2:-2, 2:-2]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    wanted = losses("plain")
    assert wanted[-1] < 0.8 * wanted[0]
    assert losses(kernel) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["step1", "step2", "step3 log", "none"])
def test_gradients_have_gradients(name):
    """Which the oracle has not: PyTorch's hard sigmoid can be differentiated once."""
    block, x = made(name, 3, torch.float64), drawn((2, 3, 3, 4), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(block, (x.requires_grad_(),))
    weight = block.coord.h_attention_head.weight

    def of_weight(w):
        return functional_call(block, {"coord.h_attention_head.weight": w}, (x.detach(),))

    assert torch.autograd.gradgradcheck(of_weight, (weight.detach().requires_grad_(),))


@pytest.mark.parametrize(("dtype", "kernel"), EACH)
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "learns"])
def test_a_penalty_has_the_gradients_of_an_oracle_that_bends_twice(
    name, dtype, kernel, monkeypatch
):
    block, x = made(name, 8, dtype), drawn((2, 8, 6, 5), dtype=dtype)

    def penalty(block, x, kernel):
        use(kernel)
        leaf = x.clone().requires_grad_()
        out = block(leaf)
        (dx,) = torch.autograd.grad(out, leaf, out, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), [leaf, *block.parameters()])

    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.functional.hardsigmoid", elementwise.hardsigmoid)
        exact = penalty(copy.deepcopy(block).double(), x.double(), "plain")
    for block.monitor in (False, name != "step1"):
        for found, wanted in zip(penalty(block, x, kernel), exact, strict=True):
            # The sixth in the gradient of PyTorch's hard sigmoid is one of float32.
            assert off(found, wanted) < max(NEAR[dtype], 1e-7)


def test_a_gradient_through_a_norm_that_trains_says_so():
    block, x = made("bn", 8), drawn((2, 8, 6, 5)).requires_grad_()
    with pytest.raises(RuntimeError, match="a batch norm that trains; expected coord_norm"):
        torch.autograd.grad(block(x).square().sum(), x, create_graph=True)


@pytest.mark.parametrize(
    ("name", "kernel"), [("spatial", "auto"), ("negative", "auto"), ("step2", "plain")]
)
def test_where_gradients_have_none_pytorch_says_so(name, kernel):
    use(kernel)
    block, x = made(name, 8), drawn((2, 8, 6, 5)).requires_grad_()
    (dx,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="hardsigmoid_backward is not implemented"):
        dx.sum().backward()


def test_functional_calls_use_what_they_are_given():
    block, x = made("step2", 8), drawn((2, 8, 6, 5))
    others = {name: p.detach() * 1.3 for name, p in block.named_parameters()}
    before = block(x)
    found = functional_call(block, others, (x,))
    use("plain")
    torch.testing.assert_close(found, functional_call(block, others, (x,)), rtol=2e-5, atol=1e-5)
    use("auto")
    assert torch.equal(block(x), before)
    assert not torch.allclose(found, before)


@pytest.mark.parametrize("name", ["step2", "learns", "spatial"])
def test_what_a_functional_call_is_given_has_the_gradients(name):
    block, x = made(name, 8), drawn((2, 8, 6, 5))

    def grads(kernel):
        use(kernel)
        others = {n: (1.3 * p.detach()).requires_grad_() for n, p in block.named_parameters()}
        out = functional_call(block, others, (x,))
        out.backward(weighing(out))
        return {n: p.grad for n, p in others.items()}

    wanted = grads("plain")
    for key, found in grads("auto").items():
        assert off(found, wanted[key]) < 1e-4, key
    assert all(p.grad is None for p in block.parameters())


@pytest.mark.filterwarnings("ignore:.*jit.script")
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "learns", "bn", "spatial", "negative"])
def test_transforms_give_the_oracle_s_numbers(name, dtype):
    """Also the gradients of the weights by each sample alone."""
    block, x = made(name, 8, dtype).train(name != "bn"), drawn((2, 8, 6, 5), dtype=dtype)
    tangent, weights = torch.randn_like(x), {n: p.detach() for n, p in block.named_parameters()}

    def of_one(weights, one):
        return functional_call(block, weights, (one[None],)).square().sum()

    def all_of_them(kernel):
        use(kernel)
        with forward.dual_level():
            dual = forward.unpack_dual(block(forward.make_dual(x, tangent))).tangent
        return (
            vmap(lambda one: block(one[None])[0])(x),
            jvp(block, (x,), (tangent,))[1],
            grad(lambda v: block(v).square().sum())(x),
            dual,
            *vmap(grad(of_one), (None, 0))(weights, x).values(),
        )

    for found, wanted in zip(all_of_them("auto"), all_of_them("plain"), strict=True):
        assert found.shape == wanted.shape
        assert off(found, wanted) < 10 * NEAR[dtype]


def test_hooks_may_keep_copies_of_what_is_kept():
    """As those do that move it elsewhere for a while."""
    block, x = made("step2", 8), drawn((2, 8, 6, 5))
    wanted = run(block, x, "auto")
    with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.numpy, torch.from_numpy):
        found = run(block, x, "auto")
    for key, exact in wanted[1].items():
        torch.testing.assert_close(found[1][key], exact, msg=key)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_change_no_gradient(reentrant):
    block, x = made("step2", 8), drawn((2, 8, 6, 5)).requires_grad_()
    block(x).square().sum().backward()
    wanted = [x.grad, *(p.grad for p in block.parameters())]
    x.grad = None
    block.zero_grad()
    checkpoint(block, x, use_reentrant=reentrant).square().sum().backward()
    found = [x.grad, *(p.grad for p in block.parameters())]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_graph_is_used_once_or_kept():
    block, x = made("step2", 8), drawn((2, 8, 6, 5)).requires_grad_()
    loss = block(x).square().sum()
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * once)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


@pytest.mark.parametrize("what", ["x", "weight"])
def test_what_was_kept_may_not_change(what):
    block, leaf = made("step2", 8), drawn((2, 8, 6, 5)).requires_grad_()
    x = leaf * 1.0
    loss = block(x).square().sum()
    with torch.no_grad():
        (x if what == "x" else block.ca.fc1.weight).mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def kept_by(block, x):
    """Bytes that a forward keeps for the backward, the parameters' own not counted."""
    own = {p.untyped_storage().data_ptr() for p in block.parameters()}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = block(x)
    assert out.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
@pytest.mark.parametrize("name", ["step1", "step2", "step3"])
@pytest.mark.parametrize(
    ("size", "most"), [((4, 64, 80, 80), 1.1), ((4, 128, 40, 40), 1.2), ((4, 256, 20, 20), 1.3)]
)
def test_what_is_kept_is_x_and_little_else(size, most, name, kernel):
    use(kernel)
    x, block = drawn(size).requires_grad_(), made(name, size[1])
    for block.monitor in (False, name != "step1"):
        assert x.numel() * 4 <= kept_by(block, x) <= most * x.numel() * 4


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
@pytest.mark.parametrize(
    ("size", "most"), [((4, 64, 80, 80), 1.3), ((4, 128, 40, 40), 1.6), ((4, 256, 20, 20), 2.0)]
)
def test_a_norm_that_trains_keeps_its_small_graph_too(size, most, kernel):
    use(kernel)
    x = drawn(size).requires_grad_()
    assert kept_by(made("bn", size[1]), x) <= most * x.numel() * 4


def large(least):
    """Where the tensors are that Python holds and that are so large."""
    tensors = (t for t in gc.get_objects() if type(t) is torch.Tensor)
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel() >= least}


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
@pytest.mark.parametrize("name", ["step2", "bn"])
def test_nothing_large_is_kept_beside_what_is_saved(name, kernel):
    """Which the hooks of saved tensors would not see."""
    use(kernel)
    x, block = drawn((2, 16, 80, 80)).requires_grad_(), made(name, 16)
    gc.collect()
    before = large(x.numel() // 4)
    for block.monitor in (False, True):
        out = block(x)
        assert large(x.numel() // 4) - before == {out.data_ptr()}
    assert out.requires_grad


@built
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["step2", "step3"])
def test_threads_change_no_bit(monkeypatch, name, layout):
    """Of what C computes: folded weights are PyTorch's, and made by one thread here."""
    monkeypatch.setattr(cpu, "GRAIN", 1)
    block, x = made(name, 70), drawn((5, 70, 9, 13), layout)
    settled = block.side.settled()
    monkeypatch.setattr("coordcbam.block.known.Known.settled", lambda *_: settled)
    monkeypatch.setattr(
        "coordcbam.block.side.unfolded", lambda *a: [torch.zeros_like(t) for t in a[3]]
    )
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaf = x.clone().requires_grad_()
        out = block(leaf)
        torch.set_num_threads(count)
        by = torch.autograd.grad(out, [leaf], torch.ones_like(out))
        results.append((out.detach(), *by))
    torch.set_num_threads(1)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


@built
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["step1", "step2", "step3", "learns"])
def test_threads_change_no_bit_of_any_gradient(monkeypatch, name, layout):
    """With layers so small that PyTorch folds them in one piece."""
    monkeypatch.setattr(cpu, "GRAIN", 1)
    block, x = made(name, 8), drawn((5, 8, 9, 13), layout)
    results = []
    for monitored, count in itertools.product((False, name != "step1"), (1, 2, 3)):
        torch.set_num_threads(count)
        block.monitor = monitored
        results.append(run(block, x, "auto"))
        torch.set_num_threads(1)
    for out, grads, _ in results[1:]:
        assert torch.equal(out, results[0][0])
        for key, wanted in results[0][1].items():
            assert torch.equal(grads[key], wanted), key


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
@pytest.mark.parametrize("name", ["step2", "step3", "bn", "spatial"])
def test_what_memory_held_before_changes_no_bit(name, kernel, monkeypatch):
    """NaN, as everywhere in these tests, or what earlier tensors have left."""
    block, x = made(name, 33), drawn((2, 33, 9, 13))
    block.monitor = True
    fresh = run(block, x, kernel)
    assert torch.empty(7).isnan().all()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    for garbage in (3e38, -7.0):
        for count in (8, 33, 66, 297, 594, 858, 7722):
            del [torch.full((count,), garbage) for _ in range(9)][:]
        found = run(block, x, kernel)
        assert torch.equal(found[0], fresh[0])
        for key, wanted in fresh[1].items():
            assert wanted.isfinite().all(), key
            assert torch.equal(found[1][key], wanted), key


@pytest.fixture
def switching():
    """Threads that take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
def test_threads_may_share_a_block(kernel, switching):
    use(kernel)
    block = made("step2", 16)
    inputs = [drawn((2, 16, 20 + i, 50)).requires_grad_() for i in range(6)]

    def grads(x):
        out = block(x)
        return [out.detach(), *torch.autograd.grad(out, [x, *block.parameters()], weighing(out))]

    alone = [grads(x) for x in inputs]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(grads, inputs), alone, strict=True):
                for one, other in zip(found, wanted, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_frozen_parameters_have_no_gradient():
    block, x = made("step2", 8), drawn((2, 8, 6, 5))
    wanted = run(block, x, "plain")
    frozen = {"ca.fc1.weight", "coord.h_channel_mixer.weight", "coord.alpha_w_raw"}
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(name not in frozen)
    found = run(block, x, "auto")
    assert {name for name, g in found[1].items() if g is None} == frozen
    for name in found[1].keys() - frozen:
        assert off(found[1][name], wanted[1][name]) < 1e-4, name


@pytest.mark.parametrize("of_x", [True, False])
def test_only_what_learns_has_a_gradient(of_x):
    block = made("step2", 8).requires_grad_(not of_x)
    x = drawn((2, 8, 6, 5)).requires_grad_(of_x)
    block(x).square().sum().backward()
    assert (x.grad is not None) == of_x
    assert all((p.grad is None) == of_x for p in block.parameters())
    block.requires_grad_(False)
    assert not block(x.detach()).requires_grad


@pytest.mark.parametrize(("dtype", "kernel"), EACH)
@pytest.mark.parametrize("name", ["step2", "learns", "bn", "none"])
def test_each_parameter_may_learn_alone(name, dtype, kernel):
    block, x = made(name, 8, dtype), drawn((2, 8, 6, 5), dtype=dtype)
    wanted = run(block, x, "plain")[1]
    use(kernel)
    for key, parameter in block.requires_grad_(False).named_parameters():
        parameter.requires_grad_(True)
        out = block(x)
        assert out.requires_grad == (wanted[key] is not None)
        if out.requires_grad:
            (found,) = torch.autograd.grad(out, parameter, weighing(out))
            assert off(found, wanted[key]) < 10 * NEAR[dtype], key
        parameter.requires_grad_(False)
    assert not block(x).requires_grad


@pytest.mark.parametrize("kernel", ["plain", "algebra", "auto"])
@pytest.mark.parametrize("off_switch", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_output_is_the_same(off_switch, kernel):
    use(kernel)
    block, x = made("step2", 8), drawn((2, 8, 6, 5)).requires_grad_()
    wanted = block(x)
    with off_switch():
        found = block(x)
    assert wanted.requires_grad
    assert not found.requires_grad
    assert torch.equal(found, wanted)


def test_inference_leaves_training_as_it_was():
    block, x = made("step2", 8), drawn((2, 8, 6, 5))
    wanted = run(block, x, "plain")
    use("auto")
    with torch.inference_mode():
        assert off(block(x), wanted[0]) < 1e-5
    agree(run(block, x, "auto"), wanted, torch.float32)


@pytest.mark.parametrize("of_out", [True, False])
def test_gradients_of_maps_reach_the_weights(of_out):
    """A loss on what ``trace`` shows, together with one on the output or alone."""
    block, x = made("step2", 8), drawn((2, 8, 6, 5)).requires_grad_()

    def grads(kernel):
        use(kernel)
        block.zero_grad()
        x.grad = None
        seen = block.trace(x)
        maps = seen.channel.gate.sum() + seen.coord.rows.square().sum() + seen.coord.cols.sum()
        loss = maps + seen.channel.fusion[:, 0].sum()
        (loss + seen.out.square().sum() if of_out else loss).backward()
        return {
            "x": x.grad,
            **{n: p.grad for n, p in block.named_parameters() if p.grad is not None},
        }

    wanted, found = grads("plain"), grads("auto")
    for name in found.keys() | wanted.keys():
        if name in found and name in wanted:
            assert off(found[name], wanted[name]) < 1e-4, name
        else:  # a loss that does not depend on it
            assert not any(g[name].any() for g in (found, wanted) if name in g), name


def every(write):
    def changed(block):
        for parameter in block.parameters():
            write(parameter)

    return changed


def stepped(kind, **options):
    def changed(block):
        kind(block.parameters(), lr=0.1, **options).step()  # the gradients are those of before

    return changed


@torch.no_grad()
def in_place(block):
    for parameter in block.parameters():
        parameter.mul_(1.5)


def replaced(block):
    for layer in block.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(parameter.detach() * 1.5))


def loaded(assign):
    def changed(block):
        weights = {name for name, _ in block.named_parameters()}
        state = {k: 1.5 * v if k in weights else v for k, v in block.state_dict().items()}
        block.load_state_dict(state, assign=assign)

    return changed


CHANGES = {
    "in place": in_place,
    "replaced": replaced,
    "loaded": loaded(assign=False),
    "loaded by assigning": loaded(assign=True),
    "half and back": lambda b: b.half().float(),
    "bfloat16 and back": lambda b: b.bfloat16().float(),
    # Where the few numbers that are looked at are not.
    "one number": lambda b: b.coord.w_channel_mixer.weight.detach().view(-1)[5].add_(0.5),
    "data assigned": every(lambda p: setattr(p, "data", p.data * 1.5)),
    "data copied": every(lambda p: p.data.copy_(torch.randn(p.shape) * 0.3)),
    "data times": every(lambda p: p.data.mul_(2)),
    "data clamped": every(lambda p: p.data.clamp_(-0.2, 0.2)),
    "data averaged": every(lambda p: p.data.lerp_(torch.zeros_like(p), 0.01)),
    "numpy": every(lambda p: p.detach().numpy().__imul__(2)),
    "from a vector": lambda b: nn.utils.vector_to_parameters(
        1.5 * nn.utils.parameters_to_vector(b.parameters()), b.parameters()
    ),
    **{
        f"{kind.__name__} {how}": stepped(kind, **{how: True})
        for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        for how in ("foreach", "fused")
    },
}


@pytest.mark.parametrize("name", ["step2", "step3"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_changed_between_steps_are_seen(change, name):
    """The next output and all of its gradients are those of the weights as they are now."""
    block, x = made(name, 16), drawn((2, 16, 6, 5))
    before = run_itself(block, x, "auto")
    CHANGES[change](block)
    found = run_itself(block, x, "auto")
    agree(found, run_itself(block, x, "plain"), torch.float32)
    assert not torch.equal(found[0], before[0])


def arguments(dtype=torch.float32):
    x = torch.randn(2, 3, 4, 5, dtype=dtype, requires_grad=True)
    factors = [torch.rand(s, dtype=dtype) + 0.5 for s in ((2, 3), (2, 3, 4), (2, 3, 5))]
    for factor in factors:
        factor.requires_grad_()
    return x, factors, torch.tensor(0.7, dtype=dtype, requires_grad=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning", "ignore:.*jit.script")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "turned"])
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators_keep_pytorch_s_rules(name, layout):
    x, factors, alpha = arguments()
    x = drawn(x.shape, layout).requires_grad_()
    found = [t.detach() for t in library.profile(x.detach())]
    given = {
        "profile": (x,),
        "profile_gradient": (x.detach(), found, [torch.randn_like(t) for t in found]),
        "scale": (x, *factors, alpha, [0.4, 0.2, 1.8]),
        "measure": (x, *factors, alpha, [0.4, 0.2, 1.8]),
        "factor_gradients": (torch.randn(2, 3, 4, 5), x, *factors, alpha, [0.4, 0.2, 1.8]),
    }[name]
    if name == "factor_gradients":  # which has none itself
        given = tuple(t.detach() if isinstance(t, torch.Tensor) else t for t in given)
    found = torch.library.opcheck(OPERATORS[name], given)
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("name", "layout"),
    [("step2", "NCHW"), ("step3", "NHWC"), ("bn", "strided"), ("step1", "samples")],
)
def test_a_compiled_block_has_the_eager_gradients(name, layout):
    torch._dynamo.reset()
    block, x = made(name, 8), drawn((2, 8, 6, 5), layout)
    wanted = run(block, x, "plain")
    use("auto")
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    leaf = x.detach().requires_grad_()
    out = compiled(leaf)
    out.backward(weighing(out))
    found = {"x": leaf.grad, **{n: p.grad for n, p in block.named_parameters()}}
    agree((out.detach(), found, {}), (*wanted[:2], {}), torch.float32)
