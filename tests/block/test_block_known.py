"""What is kept from forward to forward, and everything that must end it."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call

from _support.shaken import shaken
from coordcbam import BlockConfig, CoordCBAM
from coordcbam.block import known as room
from coordcbam.kernels import cpu, use

X = torch.randn(2, 8, 6, 5)
built = pytest.mark.skipif(cpu.missing() is not None, reason=str(cpu.missing()))


def block_of(**options):
    return shaken(CoordCBAM(8, BlockConfig.step2(**options))).eval()


def oracle(block, x=X):
    use("plain")
    try:
        with torch.no_grad():
            return block(x)
    finally:
        use("auto")


@torch.no_grad()
def follows(block, x=X):
    """Whether a forward is that of the weights as they are now."""
    torch.testing.assert_close(block(x), oracle(block, x), rtol=2e-5, atol=1e-5)


def with_biases(block):
    """Where no block has any, and PyTorch's layers may."""
    for name in ("shared_bottleneck_proj", "shared_bottleneck_refine"):
        old = getattr(block.coord, name)
        setattr(block.coord, name, nn.Conv2d(old.in_channels, old.out_channels, 1))


def through_data(write):
    def changed(block):
        for parameter in block.parameters():
            write(parameter.data)

    return changed


def replaced(block):
    old = block.coord.h_channel_mixer
    block.coord.h_channel_mixer = nn.Conv2d(8, 8, 1, bias=old.bias is not None)


def pointed_elsewhere(block):
    for parameter in block.parameters():
        parameter.data = parameter.data * 1.5


def stepped(kind, **options):
    def changed(block):
        optimizer = kind(block.parameters(), lr=0.05, **options)
        with torch.enable_grad():
            block(X).square().sum().backward()
        optimizer.step()

    return changed


CHANGES = {
    "data times": through_data(lambda t: t.mul_(1.5)),
    "data copied": through_data(lambda t: t.copy_(torch.randn(t.shape) * 0.5)),
    "data filled": through_data(lambda t: t.fill_(0.3)),
    "data assigned": pointed_elsewhere,
    "a layer replaced": replaced,
    "layers with biases": with_biases,
    "a parameter replaced": lambda b: setattr(
        b.ca.fc1, "weight", nn.Parameter(b.ca.fc1.weight * 2)
    ),
    "a state loaded": lambda b: b.load_state_dict(block_of().state_dict()),
    "half and back": lambda b: b.half().float(),
    "double and back": lambda b: through_data(lambda t: t.mul_(1.5))(b.double()) or b.float(),
    "in place": lambda b: [p.mul_(1.5) for p in b.parameters()],
    "sgd": stepped(torch.optim.SGD, foreach=False),
    "sgd foreach": stepped(torch.optim.SGD, foreach=True),
    "sgd fused": stepped(torch.optim.SGD, fused=True),
    "adam foreach": stepped(torch.optim.Adam, foreach=True),
    "adamw fused": stepped(torch.optim.AdamW, fused=True),
    "a hook": lambda b: b.ca.fc1.register_forward_hook(lambda *a: a[2] * 2) and None,
    "a parametrization": lambda b: (
        nn.utils.parametrizations.weight_norm(b.ca.fc1)
        and b.ca.fc1.parametrizations.weight.original0.mul_(2)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_change_is_followed(change):
    block = block_of()
    follows(block)
    before = block(X)
    CHANGES[change](block)
    follows(block)
    assert not torch.equal(block(X), before)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("h_local_dw", nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8)),  # with a bias
        ("h_local_dw", nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=4, bias=False)),
        ("w_local_dw", nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8, bias=False)),
        ("w_dilated_dw", nn.Conv2d(8, 8, (1, 3), padding=(0, 1), groups=8, bias=False)),
        (
            "h_local_dw",
            nn.Conv2d(8, 8, (3, 1), padding=(1, 0), padding_mode="reflect", groups=8, bias=False),
        ),
        ("h_channel_mixer", nn.Conv2d(8, 8, 1, groups=2)),
        ("w_channel_mixer", nn.Identity()),
    ],
)
def test_a_layer_of_another_form_is_called(name, layer):
    block = block_of()
    setattr(block.coord, name, layer)
    assert name in block.side.opaque
    follows(block)


def test_layers_with_biases_have_their_gradients():
    block = block_of(coord_norm="none")  # a norm would take them out again
    with_biases(block)
    grads = []
    for kernel in ("plain", "auto"):
        use(kernel)
        block.zero_grad()
        block(X).square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in block.named_parameters()})
    assert block.coord.shared_bottleneck_proj.bias.grad is not None
    for name, wanted in grads[0].items():
        off = (grads[1][name] - wanted).abs().max() / wanted.abs().max()
        assert off < 1e-4, name


def test_a_running_statistic_is_followed():
    block = block_of(coord_norm="bn")
    follows(block)
    block.train()(X * 3 + 1)
    follows(block.eval())
    block.coord.shared_bottleneck_norm.running_mean.data.add_(0.5)
    follows(block)
    block.coord.shared_bottleneck_norm.running_var.fill_(1e-5)  # as large as the norm's eps
    follows(block)
    with_biases(block)
    follows(block)


@built
@torch.no_grad()
def test_what_has_not_changed_is_kept():
    block = block_of()
    block(X)
    settled = block.side.settled()
    block(X)
    assert block.side.settled() is settled
    block.ca.fc1.weight.mul_(1.0)  # counted, whatever it did
    assert block.side.settled() is not settled


@pytest.mark.parametrize("block", [block_of().double(), block_of().to("meta")])
@torch.no_grad()
def test_where_nobody_can_look_nothing_is_kept(block):
    assert block.side.settled() is not block.side.settled()


@built
@torch.no_grad()
def test_no_probe_reads_what_has_become_of_another_kind(monkeypatch):
    """A parameter that is cast or moved is the same object, its memory is not float32's on the CPU."""
    looked_at = []

    class Noted(room.Probe):
        def __init__(self, tensors):
            looked_at.extend((t.dtype, t.device.type) for t in tensors)
            super().__init__(tensors)

    monkeypatch.setattr(room, "Probe", Noted)
    block = block_of(learnable_temperature=True, coord_learnable_alpha=True)
    assert not list(block.ca.buffers())  # which a cast replaces
    for dtype in (torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.float32):
        block.to(dtype)
        block(X.to(dtype))
    assert set(looked_at) == {(torch.float32, "cpu")}
    follows(block)


def test_a_functional_call_keeps_neither_its_weights_nor_their_graph():
    block = block_of()
    follows(block)
    leaf = torch.ones((), requires_grad=True)
    others = {name: p.detach() * leaf for name, p in block.named_parameters()}
    gone = weakref.ref(others["ca.fc1.weight"])
    functional_call(block, others, (X,)).sum().backward()
    assert leaf.grad is not None
    del others
    gc.collect()
    assert gone() is None
    follows(block)


def test_a_block_that_is_gone_is_forgotten():
    block = block_of()
    block(X)
    gone = weakref.ref(block.ca)
    assert block.ca in room._KNOWN
    del block
    gc.collect()
    assert gone() is None


@torch.no_grad()
def test_a_copy_knows_its_own_weights():
    block = block_of()
    follows(block)
    other = copy.deepcopy(block)
    through_data(lambda t: t.mul_(2.0))(other)
    follows(other)
    follows(block)


@torch.no_grad()
def test_the_share_of_the_mix_is_followed():
    """Alpha and the average are read, not remembered."""
    block = shaken(CoordCBAM(8, BlockConfig.step3(r_min=0.9))).eval()
    follows(block)
    for change in (
        lambda: block.alpha_raw.data.fill_(-2.0),
        lambda: block.r_ema.data.fill_(0.2),
        lambda: block.r_ema.fill_(1.1),
        lambda: block.load_state_dict(CoordCBAM(8, block.config).state_dict()),
    ):
        change()
        follows(block)


def test_the_share_of_the_mix_has_its_gradient():
    block = shaken(CoordCBAM(8, BlockConfig.step3(learnable_alpha=True))).eval()
    with torch.no_grad():
        block(X)
    block(X).square().sum().backward()
    assert block.alpha_raw.grad.abs() > 0


def test_a_share_made_in_inference_mode_serves_training():
    block = shaken(CoordCBAM(8, BlockConfig.step3())).eval()
    block.requires_grad_(False)
    with torch.inference_mode():
        block(X)
    x = X.clone().requires_grad_()
    block(x).sum().backward()
    assert x.grad is not None


def test_a_copy_and_a_checkpoint_hold_nothing_of_it(tmp_path):
    block = block_of()
    size = len(block.__dict__)
    block(X)
    assert len(block.__dict__) == size
    torch.save(block, tmp_path / "block.pt")
    follows(torch.load(tmp_path / "block.pt", weights_only=False))
