"""The whole block by every kernel: the oracle's output and every gradient of it."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

from _support.shaken import shaken
from coordcbam import BlockConfig, CoordCBAM
from coordcbam.kernels import chosen, cpu, library, use

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
built = pytest.mark.skipif(cpu.missing() is not None, reason=str(cpu.missing()))


@pytest.fixture(autouse=True)
def _as_before():
    before = chosen()
    yield
    use(before)


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
    if layout == "NHWC":
        return torch.randn(size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.randn(batch, channels, height, 2 * width, dtype=dtype)[..., ::2]
    if layout == "turned":
        return torch.randn(batch, channels, width, height, dtype=dtype).transpose(2, 3)
    return torch.randn(size, dtype=dtype)


def run(block, x, kernel):
    """Output and every gradient, of a loss that weighs each element differently."""
    use(kernel)
    block = copy.deepcopy(block)
    x = x.detach().requires_grad_()
    out = block(x)
    weights = torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).view(out.shape)
    out.backward(weights)
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
            # Of the router's gradient most cancels: its branches differ by little.
            assert off(found[1][name], exact) < NEAR[dtype] * (10 if "router" in name else 1), name
    for name, buffer in wanted[2].items():
        mine = found[2][name].double()
        torch.testing.assert_close(mine, buffer.double(), equal_nan=True, rtol=1e-5, atol=1e-6)


def cases():
    for number, (name, size) in enumerate(itertools.product(CONFIGS, SIZES)):
        for dtype in NEAR:
            layouts = LAYOUTS if number % 3 == 0 else LAYOUTS[number % 2 :: 2]
            yield from (pytest.param(name, size, dtype, layout) for layout in layouts)


ALL = list(cases())


def test_there_are_more_than_two_hundred_cases():
    assert len(ALL) >= 200


@pytest.mark.parametrize(("name", "size", "dtype", "layout"), ALL)
def test_outputs_and_gradients_are_the_oracle_s(name, size, dtype, layout):
    if name == "bn" and size[0] * (size[2] + size[3]) < 8:
        pytest.skip("a batch norm divides by next to nothing")
    block, x = made(name, size[1], dtype), drawn(size, layout, dtype)
    exact = run(copy.deepcopy(block).double(), x.double(), "plain")
    for kernel in ("algebra", "auto"):
        agree(run(block, x, kernel), exact, dtype)


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


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
@pytest.mark.parametrize("name", ["step1", "step2", "step3"])
def test_ties_are_shared_as_the_oracle_shares_them(name, kernel):
    """The first of a channel's maxima has all of its gradient, those of a row or column the same."""
    block = made(name, 6)
    x = torch.randint(-2, 3, (3, 6, 9, 13)).float()
    x[1] = 1.0
    exact = run(copy.deepcopy(block).double(), x.double(), "plain")
    agree(run(block, x, kernel), exact, torch.float32)


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("name", ["step2", "step3", "bn"])
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


@pytest.mark.parametrize("kernel", ["algebra", "auto"])
@pytest.mark.parametrize("name", ["step1", "step2", "step3 log", "none"])
def test_gradients_have_gradients(name, kernel):
    """Which the oracle has not: PyTorch's hard sigmoid can be differentiated once."""
    use(kernel)
    block, x = made(name, 4, torch.float64), drawn((2, 4, 3, 5), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(block, (x.requires_grad_(),))
    weight = block.coord.h_attention_head.weight

    def of_weight(w):
        return functional_call(block, {"coord.h_attention_head.weight": w}, (x.detach(),))

    assert torch.autograd.gradgradcheck(of_weight, (weight.detach().requires_grad_(),))


@built
@pytest.mark.parametrize("name", ["step2", "step3"])
def test_gradients_have_gradients_in_float32(name):
    block, x = made(name, 8), drawn((2, 8, 6, 5))

    def penalty(block, x):
        leaf = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(block(leaf).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), [leaf, block.ca.fc1.weight])

    exact = penalty(copy.deepcopy(block).double(), x.double())
    for found, wanted in zip(penalty(block, x), exact, strict=True):
        assert off(found, wanted) < 1e-4


def test_a_gradient_through_a_norm_that_trains_says_so():
    block, x = made("bn", 8), drawn((2, 8, 6, 5)).requires_grad_()
    with pytest.raises(RuntimeError, match="a batch norm that trains; expected coord_norm"):
        torch.autograd.grad(block(x).square().sum(), x, create_graph=True)


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


@pytest.mark.filterwarnings("ignore:.*jit.script")
def test_transforms_give_the_oracle_s_numbers():
    block, x = made("step3", 8, torch.float64).eval(), drawn((2, 8, 6, 5), dtype=torch.float64)
    tangent = torch.randn_like(x)

    def all_of_them(kernel):
        use(kernel)
        each = vmap(lambda one: block(one[None])[0])(x)
        return each, jvp(block, (x,), (tangent,))[1], grad(lambda v: block(v).square().sum())(x)

    for found, wanted in zip(all_of_them("auto"), all_of_them("plain"), strict=True):
        torch.testing.assert_close(found, wanted)


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
@pytest.mark.parametrize("name", ["step2", "step3"])
@pytest.mark.parametrize(
    ("size", "most"), [((4, 64, 80, 80), 1.1), ((4, 128, 40, 40), 1.2), ((4, 256, 20, 20), 1.3)]
)
def test_what_is_kept_is_x_and_little_else(size, most, name, kernel):
    use(kernel)
    x = drawn(size).requires_grad_()
    assert kept_by(made(name, size[1]), x) <= most * x.numel() * 4


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


def test_inference_leaves_training_as_it_was():
    block, x = made("step2", 8), drawn((2, 8, 6, 5))
    wanted = run(block, x, "plain")
    use("auto")
    with torch.inference_mode():
        assert off(block(x), wanted[0]) < 1e-5
    agree(run(block, x, "auto"), wanted, torch.float32)


def test_gradients_of_maps_reach_the_weights():
    """A loss on what ``trace`` shows, together with one on the output."""
    block, x = made("step2", 8), drawn((2, 8, 6, 5))

    def grads(kernel):
        use(kernel)
        block.zero_grad()
        seen = block.trace(x)
        maps = seen.channel.gate.sum() + seen.coord.rows.square().sum() + seen.coord.cols.sum()
        (seen.out.square().sum() + maps + seen.channel.fusion[:, 0].sum()).backward()
        return {name: p.grad.clone() for name, p in block.named_parameters()}

    wanted = grads("plain")
    for name, found in grads("auto").items():
        assert off(found, wanted[name]) < 1e-4, name


def arguments(dtype=torch.float32):
    x = torch.randn(2, 3, 4, 5, dtype=dtype, requires_grad=True)
    factors = [torch.rand(s, dtype=dtype) + 0.5 for s in ((2, 3), (2, 3, 4), (2, 3, 5))]
    for factor in factors:
        factor.requires_grad_()
    return x, factors, torch.tensor(0.7, dtype=dtype, requires_grad=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning", "ignore:.*jit.script")
@pytest.mark.parametrize("name", ["profile", "scale", "measure", "factor_gradients"])
def test_operators_keep_pytorch_s_rules(name):
    x, factors, alpha = arguments()
    given = {
        "profile": (x,),
        "scale": (x, *factors, alpha, [0.4, 0.2, 1.8]),
        "measure": (x, *factors, alpha, [0.4, 0.2, 1.8]),
        "factor_gradients": (torch.randn(2, 3, 4, 5), x, *factors, alpha, [0.4, 0.2, 1.8]),
    }[name]
    if name == "factor_gradients":  # which has none itself
        given = tuple(t.detach() if isinstance(t, torch.Tensor) else t for t in given)
    found = torch.library.opcheck(getattr(library, name), given)
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ["step2", "step3"])
def test_a_compiled_block_has_the_eager_gradients(name):
    torch._dynamo.reset()
    block, x = made(name, 8), drawn((2, 8, 6, 5))
    wanted = run(block, x, "plain")
    use("auto")
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    out = compiled(leaf)
    out.backward(torch.linspace(-1.0, 2.0, out.numel()).view(out.shape))
    found = {"x": leaf.grad, **{n: p.grad for n, p in block.named_parameters()}}
    agree((out.detach(), found, {}), (*wanted[:2], {}), torch.float32)
