"""What is handed to a block: refused with got and expected, or carried through."""

import numpy as np
import pytest
import torch
from torch import nn

from coordcbam import BlockConfig, CoordCBAM, Stats, commit_
from coordcbam.block import PRESETS, InputError, InputTypeError
from coordcbam.notebook import step1, step2

LAYERS = {
    "CoordCBAM": lambda: CoordCBAM(8),
    "step1": lambda: step1.CBAMChannelPlusCoord(8),
    "step2-maps": lambda: step2.CBAMChannelPlusCoord(8, return_maps=True),
    "step1-channel": lambda: step1.ChannelAttentionFusionT(8),
    "step2-channel": lambda: step2.ChannelAttentionFusionT(8),
    "step1-coord": lambda: step1.CoordinateAttPlus(8),
    "step2-coord": lambda: step2.CoordinateAttPlus(8),
}
WRONG = {
    "rank 2": (torch.ones(2, 8), "got shape (2, 8), expected (B, 8, H, W)"),
    "rank 3": (torch.ones(8, 4, 4), "got shape (8, 4, 4), expected (B, 8, H, W)"),
    "rank 5": (torch.ones(1, 8, 4, 4, 4), "expected (B, 8, H, W)"),
    "scalar": (torch.tensor(1.0), "got shape (), expected (B, 8, H, W)"),
    "one channel": (torch.ones(2, 1, 4, 4), "got shape (2, 1, 4, 4), expected (B, 8, H, W)"),
    "more channels": (torch.ones(2, 16, 4, 4), "got shape (2, 16, 4, 4), expected (B, 8, H, W)"),
    "channels last": (torch.ones(2, 4, 4, 8), "got shape (2, 4, 4, 8), expected (B, 8, H, W)"),
    "no rows": (torch.ones(2, 8, 0, 4), "got an empty map (2, 8, 0, 4), expected H and W >= 1"),
    "no columns": (torch.ones(2, 8, 4, 0), "got an empty map (2, 8, 4, 0), expected H and W >= 1"),
    "int64": (torch.ones(2, 8, 4, 4).long(), "got dtype torch.int64, expected torch.float32"),
    "uint8": (torch.ones(2, 8, 4, 4).byte(), "got dtype torch.uint8, expected torch.float32"),
    "bool": (torch.ones(2, 8, 4, 4).bool(), "got dtype torch.bool, expected torch.float32"),
    "float64": (torch.ones(2, 8, 4, 4).double(), "got dtype torch.float64, expected torch.float32"),
    "float16": (torch.ones(2, 8, 4, 4).half(), "got dtype torch.float16, expected torch.float32"),
    "complex": (torch.ones(2, 8, 4, 4) * 1j, "got dtype torch.complex64, expected torch.float32"),
    "list": ([[1.0]], "got list, expected a (B, 8, H, W) tensor"),
    "numpy": (np.ones((2, 8, 4, 4), np.float32), "got ndarray, expected a (B, 8, H, W) tensor"),
    "None": (None, "got NoneType, expected a (B, 8, H, W) tensor"),
    "number": (1.0, "got float, expected a (B, 8, H, W) tensor"),
    "tuple": ((torch.ones(2, 8, 4, 4),), "got tuple, expected a (B, 8, H, W) tensor"),
}
TYPES = {"int64", "uint8", "bool", "float64", "float16", "complex", "list", "numpy", "None"}
TYPES |= {"number", "tuple"}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_wrong_input_is_refused_in_our_words(layer, wrong):
    block = LAYERS[layer]()
    x, text = WRONG[wrong]
    calls = [block, block.trace] if isinstance(block, CoordCBAM) else [block]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call(x)
        assert str(caught.value).startswith(f"{type(block).__name__}: ")
        assert text in str(caught.value)
        assert isinstance(caught.value, InputTypeError) == (wrong in TYPES)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, TypeError) == (wrong in TYPES)


def test_a_refused_input_changes_nothing():
    block = CoordCBAM(8).train()
    block.monitor = True
    with pytest.raises(InputError):
        block(torch.ones(2, 9, 4, 4))
    assert block.r_ema.item() == 1.0
    assert block.stats.isnan().all()


@pytest.mark.parametrize("norm", ["gn", "bn", "none"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("step", [1, 2])
def test_an_empty_batch_passes(training, step, norm):
    block = CoordCBAM(8, BlockConfig.from_notebook(step, coord_norm=norm)).train(training)
    block.monitor = True
    x = torch.ones(0, 8, 4, 4, requires_grad=True)
    for out in (block(x), block.trace(x).out):
        assert out.shape == (0, 8, 4, 4)
    out.sum().backward()
    if step == 2:
        assert block.r_ema.item() == 1.0
    assert block(torch.randn(2, 8, 4, 4)).isfinite().all()


@pytest.mark.parametrize("module", [step1, step2])
def test_an_empty_batch_passes_the_notebook_classes(module):
    block = module.CBAMChannelPlusCoord(8, return_maps=True)
    out, ca_map, fusion, stats, *_ = block(torch.ones(0, 8, 4, 4))
    assert (out.shape, ca_map.shape, fusion.shape) == ((0, 8, 4, 4), (0, 8, 1, 1), (0, 2))
    assert set(stats) == {"a_h", "a_w"}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(layer, dtype):
    """Under autocast float32 weights meet float32 or bfloat16 maps, and gradients arrive."""
    block = LAYERS[layer]().train()
    if isinstance(block, CoordCBAM):
        block.monitor = True
    x = torch.randn(2, 8, 6, 6)
    plain = block(x)
    x = x.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x)
    plain, out = (r[0] if isinstance(r, tuple) else r for r in (plain, out))
    torch.testing.assert_close(out.float(), plain, rtol=2e-2, atol=2e-2)
    out.float().sum().backward()
    assert x.grad.isfinite().all()
    weight = next(block.parameters())
    assert weight.dtype == weight.grad.dtype == torch.float32
    if isinstance(block, CoordCBAM) and block.rescue is not None:
        commit_(block)
        assert block.r_ema.dtype == torch.float32
        assert block.r_ema.item() != 1.0 or block.updates.item() == 1


@pytest.mark.parametrize("bad", ["int64", "bool", "complex", "float64"])
def test_autocast_does_not_excuse(bad):
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(InputTypeError, match="got dtype"),
    ):
        CoordCBAM(8)(WRONG[bad][0])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_floating_dtype(dtype, preset):
    block = CoordCBAM(8, BlockConfig.preset(preset)).to(dtype).train()
    nn.init.constant_(block.ca.fc2.bias, -1.0)
    block.monitor = True
    out = block(torch.randn(2, 8, 6, 5, dtype=dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert 0 < Stats(*block.stats).r_out_pre < 1


SHAPES = [(1, 1, 1), (1, 1, 7), (3, 7, 1), (2, 2, 3), (1, 40, 2)]


@pytest.mark.parametrize("channels", [1, 2, 3, 31, 33, 64, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_size(channels, shape):
    batch, height, width = shape
    block = CoordCBAM(channels).train()
    block.monitor = True
    x = torch.randn(batch, channels, height, width, requires_grad=True)
    trace = block.trace(x)
    assert trace.out.shape == x.shape
    assert trace.channel.gate.shape == (batch, channels, 1, 1)
    assert trace.channel.fusion.shape == (batch, 2)
    assert trace.coord.rows.shape == (batch, channels, height, 1)
    assert trace.coord.cols.shape == (batch, channels, 1, width)
    trace.out.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x, x], dim=1)[:, :8],
        lambda x: x.flip(3).flip(3),
    ],
    ids=["channels_last", "transposed", "sliced", "flipped"],
)
def test_memory_layouts(layout):
    block = CoordCBAM(8).double()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    laid = layout(x).clone(memory_format=torch.preserve_format)
    copy = laid.clone()
    assert torch.equal(x, laid)
    torch.testing.assert_close(block(laid), block(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(laid, copy), "the input was written to"


def test_channels_last_stays():
    x = torch.randn(2, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    assert CoordCBAM(8)(x).is_contiguous(memory_format=torch.channels_last)


def test_samples_do_not_see_each_other():
    block = CoordCBAM(8).double().eval()
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    whole = block(x)
    for i in range(3):
        torch.testing.assert_close(block(x[i : i + 1]), whole[i : i + 1], rtol=1e-12, atol=1e-12)


def test_gradcheck():
    config = BlockConfig.from_notebook(learnable_temperature=True, learnable_alpha=True)
    block = CoordCBAM(4, config).double().eval()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_every_parameter_gets_a_gradient():
    config = BlockConfig.from_notebook(
        learnable_temperature=True, learnable_alpha=True, coord_use_spatial_gate=True
    )
    block = CoordCBAM(8, config)
    nn.init.normal_(block.ca.fusion_router[2].weight)
    block(torch.randn(2, 8, 6, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
