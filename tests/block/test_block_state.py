"""Checkpoints: strict loading, step 1 into step 2, half precision, nothing kept between forwards."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from coordcbam import BlockConfig, CoordCBAM, Guard, GuardedResidual, Stats, commit_
from coordcbam.notebook import step1, step2


def size(module):
    return len(pickle.dumps(module))


def blocks_of_every_kind():
    return {
        "core-step1": lambda: CoordCBAM(8, BlockConfig.step1()),
        "core-step2": lambda: CoordCBAM(8, BlockConfig.step2()),
        "core-step3": lambda: CoordCBAM(8),
        "guard": lambda: Guard(nn.Conv2d(8, 8, 1)),
        "step1": lambda: step1.CBAMChannelPlusCoord(8),
        "step1-maps": lambda: step1.CBAMChannelPlusCoord(8, return_maps=True),
        "step2": lambda: step2.CBAMChannelPlusCoord(8, monitor=True),
        "step2-maps": lambda: step2.CBAMChannelPlusCoord(8, monitor=True, return_maps=True),
        "step1-channel": lambda: step1.ChannelAttentionFusionT(8, return_fusion_weights=True),
        "step1-coord": lambda: step1.CoordinateAttPlus(8, norm="bn"),
        "step2-channel": lambda: step2.ChannelAttentionFusionT(8, learnable_temperature=True),
        "step2-coord": lambda: step2.CoordinateAttPlus(8, use_spatial_gate=True),
    }


every_kind = pytest.mark.parametrize("kind", blocks_of_every_kind())


@pytest.mark.parametrize(
    "kind", [k for k in blocks_of_every_kind() if k.count("-") != 1 or "core" in k]
)
def test_a_reset_is_a_fresh_block(kind):
    torch.manual_seed(0)
    fresh = blocks_of_every_kind()[kind]()
    wanted = copy.deepcopy(fresh.state_dict())
    for key, value in fresh.state_dict().items():
        if key != "form":  # which no training moves
            value.fill_(2)
    fresh.stats.fill_(2.0)
    torch.manual_seed(0)
    fresh.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    if kind != "guard":  # whose block is not ours
        torch.manual_seed(0)
        fresh.reset_parameters()
    assert all(torch.equal(value, wanted[key]) for key, value in fresh.state_dict().items())
    assert fresh.stats.isnan().all()


@every_kind
def test_nothing_is_kept_between_forwards(kind):
    block = blocks_of_every_kind()[kind]()
    if isinstance(block, GuardedResidual):
        block.monitor = True
    names = set(vars(block))
    before = size(block)
    for training in (True, False):
        block.train(training)
        for shape in ((2, 8, 40, 40), (1, 8, 3, 5)):
            x = torch.randn(shape)
            block(x)
            if isinstance(block, CoordCBAM):
                block.trace(x)
    block.train()
    assert size(block) == before
    assert set(vars(block)) == names
    for module in block.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                small = name == "tally" and value.numel() == 4  # this process's own, no buffer
                assert small or not isinstance(value, torch.Tensor), name
                assert not callable(value) or isinstance(value, type), name


@every_kind
def test_deepcopy_is_independent_and_equal(kind):
    block = blocks_of_every_kind()[kind]().eval()
    twin = copy.deepcopy(block)
    x = torch.randn(2, 8, 6, 5)
    first = block(x)
    second = twin(x)
    first, second = (r[0] if isinstance(r, tuple) else r for r in (first, second))
    assert torch.equal(first, second)
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    again = block(x)
    assert torch.equal(again[0] if isinstance(again, tuple) else again, first)


@every_kind
def test_a_deepcopy_after_a_forward_with_gradients(kind):
    block = blocks_of_every_kind()[kind]().train()
    out = block(torch.randn(2, 8, 6, 5))
    copy.deepcopy(block)
    (out[0] if isinstance(out, tuple) else out).sum().backward()


@every_kind
def test_state_dict_has_no_numbers_of_the_last_batch(kind):
    block = blocks_of_every_kind()[kind]()
    block(torch.randn(2, 8, 6, 5))
    assert not [k for k in block.state_dict() if k.endswith(("stats", "mask_stats"))]


def moved(block):
    """The block with weights and buffers unlike the fresh ones."""
    with torch.no_grad():
        for tensor in block.state_dict().values():
            if tensor.dtype.is_floating_point:
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return block


WRAPS = {
    "alone": lambda block: block,
    "nested": lambda block: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(block)),
}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    "options", [{}, {"residual": False}, {"learnable_alpha": True, "ca_fusion": "sum"}]
)
def test_step1_state_loads_strictly_into_step2(wrap, options, assign):
    old = WRAPS[wrap](moved(step1.CBAMChannelPlusCoord(8, **options)))
    new = WRAPS[wrap](moved(CoordCBAM(8, BlockConfig.from_notebook(**options))))
    state = old.state_dict()
    keys = list(state)
    new.load_state_dict(state, strict=True, assign=assign)
    assert list(state) == keys, "the caller's state was changed"
    ours = new.state_dict()
    (r_ema,) = (ours[key] for key in ours if key.endswith("r_ema"))
    assert r_ema.item() == 1.0
    assert all(torch.equal(ours[key], state[key]) for key in keys)


def test_r_ema_of_a_checkpoint_is_kept():
    one, other = CoordCBAM(8), CoordCBAM(8)
    one.r_ema.fill_(0.37)
    other.load_state_dict(one.state_dict(), strict=True)
    assert other.r_ema.item() == pytest.approx(0.37)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    "pick",
    [lambda k: False, lambda k: "ca.fc1" in k, lambda k: k.startswith("0.")],
    ids=["empty", "a layer", "elsewhere"],
)
def test_a_partial_state_leaves_r_ema(wrap, pick):
    """Only a whole step-1 state means "as a fresh block"; a few tensors mean nothing of the kind."""
    block = CoordCBAM(8)
    block.r_ema.fill_(0.25)
    model = WRAPS[wrap](block)
    part = {key: value for key, value in model.state_dict().items() if pick(key)}
    missing = model.load_state_dict(part, strict=False).missing_keys
    assert block.r_ema.item() == 0.25
    assert any(key.endswith("r_ema") for key in missing)


def test_an_unknown_or_missing_key_is_an_error():
    block = CoordCBAM(8)
    state = block.state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stats"):
        block.load_state_dict({**state, "stats": block.stats})
    state.pop("ca.fc1.weight")
    with pytest.raises(RuntimeError, match=r"Missing key.*ca\.fc1\.weight"):
        block.load_state_dict(state)


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_narrow_dtypes_leave_the_running_numbers_alone(narrow):
    """r_ema and stats stay float32 with their exact value; the weights follow."""
    block = moved(CoordCBAM(8)).train()
    block.monitor = True
    block(torch.randn(2, 8, 6, 6))
    commit_(block)
    value, stats = block.r_ema.clone(), block.stats.clone()
    assert value.to(narrow).float() != value  # else the test shows nothing
    block.to(narrow)
    assert block.ca.fc1.weight.dtype == narrow
    assert block.r_ema.dtype == block.stats.dtype == torch.float32
    assert torch.equal(block.r_ema, value)
    assert torch.equal(block.stats, stats)
    assert block.alpha_raw.dtype == narrow


def test_double_is_followed_and_float_comes_back():
    block = CoordCBAM(8).double()
    assert block.r_ema.dtype == block.stats.dtype == torch.float64
    block.half()
    assert block.r_ema.dtype == torch.float64
    block.float()
    assert block.r_ema.dtype == block.stats.dtype == torch.float32


def test_bfloat16_training_averages_in_float32():
    """Steps of 0.1 % of r_ema would round to nothing in bfloat16."""
    config = BlockConfig.from_notebook(monitor=True, ema_momentum=0.999)
    block = CoordCBAM(8, config).bfloat16().train()
    x = torch.randn(2, 8, 6, 6, dtype=torch.bfloat16)
    for _ in range(20):
        out = block(x)
    assert out.dtype == torch.bfloat16
    r_out = Stats(*block.stats).r_out_pre.item()
    assert block.r_ema.item() == pytest.approx(0.999**20 + (1 - 0.999**20) * r_out, abs=1e-5)


def test_meta_device_and_back():
    with torch.device("meta"):
        block = CoordCBAM(8)
    assert block.r_ema.is_meta
    block.half()
    block.to_empty(device="cpu")
    block.load_state_dict(CoordCBAM(8).state_dict())
    assert block(torch.randn(1, 8, 4, 4).half()).isfinite().all()


def test_torch_save_of_the_whole_module():
    block = CoordCBAM(8).eval()
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    back = torch.load(file, weights_only=False)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(back(x), block(x))
    assert back.config == block.config


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_a_cast_and_a_move_in_one_call(narrow):
    block = CoordCBAM(8).to(device="meta", dtype=narrow)
    for state in (block.r_ema, block.stats, block.tally):
        assert state.is_meta
        assert state.dtype == torch.float32
