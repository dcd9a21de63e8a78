"""The notebook's classes: signatures, return tuples, section 8, the sub-blocks' own calls."""

import inspect
import math

import pytest
import torch

import coordcbam as cc
from _support.configs import BY_STEP, STEP1
from coordcbam.block import OptionTypeError, OptionValueError
from coordcbam.notebook import step1, step2
from coordcbam.notebook.quicktest import ARGUMENTS, quicktest

MODULES = {1: step1, 2: step2}
CHANNEL = {
    "channels": inspect.Parameter.empty,
    "reduction": 16,
    "min_hidden": 4,
    "fusion": "softmax",
    "gate": "sigmoid",
    "temperature": 0.9,
    "learnable_temperature": False,
    "eps": 1e-6,
    "act": "relu",
    "bias": True,
    "fusion_router_hidden": 16,
    "return_fusion_weights": False,
}
COORD = {
    "in_channels": inspect.Parameter.empty,
    "reduction": 32,
    "min_mid_channels": 8,
    "act": "hswish",
    "init_alpha": 0.7,
    "learnable_alpha": True,
    "beta": 0.35,
    "dilation": 2,
    "norm": "gn",
    "use_spatial_gate": False,
    "spatial_gate_beta": 0.35,
}
SIGNATURES = {
    (1, "ChannelAttentionFusionT"): CHANNEL,
    (2, "ChannelAttentionFusionT"): {
        **CHANNEL,
        "t_min": 0.5,
        "t_max": 3.0,
        "router_temperature": 1.5,
        "beta_ca": 0.35,
    },
    (1, "CoordinateAttPlus"): COORD,
    (2, "CoordinateAttPlus"): {**COORD, "scale_min": 0.6, "scale_max": 1.6, "head_init_std": 0.01},
    (1, "CBAMChannelPlusCoord"): {
        "channels": inspect.Parameter.empty,
        **{name: default for name, (default, _) in STEP1.items()},
        "return_maps": False,
    },
    (2, "CBAMChannelPlusCoord"): {
        "channels": inspect.Parameter.empty,
        "ca_reduction": 16,
        "ca_min_hidden": 4,
        "ca_fusion": "softmax",
        "ca_gate": "sigmoid",
        "ca_temperature": 0.9,
        "ca_act": "relu",
        "ca_fusion_router_hidden": 16,
        "learnable_temperature": False,
        "ca_t_min": 0.5,
        "ca_t_max": 3.0,
        "ca_router_temperature": 1.5,
        "beta_ca": 0.35,
        "coord_reduction": 32,
        "coord_min_mid": 8,
        "coord_act": "hswish",
        "coord_init_alpha": 0.7,
        "coord_learnable_alpha": True,
        "coord_beta": 0.35,
        "coord_dilation": 2,
        "coord_norm": "gn",
        "coord_use_spatial_gate": False,
        "coord_spatial_gate_beta": 0.35,
        "coord_scale_min": 0.6,
        "coord_scale_max": 1.6,
        "coord_head_init_std": 0.01,
        "residual": True,
        "alpha_init": 0.75,
        "learnable_alpha": False,
        "monitor": False,
        "r_min": 0.45,
        "ema_momentum": 0.95,
        "min_rescue_ratio": 0.2,
        "alpha_eff_min": 0.2,
        "rescue_mode": "ratio_floor",
        "return_maps": False,
    },
}
STEPS = pytest.mark.parametrize("step", [1, 2])


def x_of(channels=8, **kwargs):
    return torch.randn(2, channels, 6, 5, **kwargs)


@pytest.mark.parametrize(("step", "name"), SIGNATURES)
def test_signature(step, name):
    """Names, order, defaults and kinds: positional calls mean what they mean in the notebook."""
    parameters = inspect.signature(getattr(MODULES[step], name)).parameters
    expected = SIGNATURES[step, name]
    assert list(parameters) == list(expected)
    for key, parameter in parameters.items():
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default == expected[key], key
        assert type(parameter.default) is type(expected[key]), key


@pytest.mark.parametrize(("step", "name"), SIGNATURES)
def test_classes_live_where_they_pickle(step, name):
    cls = getattr(MODULES[step], name)
    assert cls.__module__ == f"coordcbam.notebook.step{step}"
    assert cls.__qualname__ == name


@pytest.mark.parametrize(
    "name", ["CBAMChannelPlusCoord", "ChannelAttentionFusionT", "CoordinateAttPlus"]
)
def test_top_level_names_are_step2s(name):
    assert getattr(cc, name) is getattr(step2, name)


@STEPS
def test_positional_arguments(step):
    block = MODULES[step].CBAMChannelPlusCoord(32, 8, 2, "sum")
    config = block.config.channel
    assert (block.channels, config.reduction, config.min_hidden, config.fusion) == (32, 8, 2, "sum")


@STEPS
def test_every_argument_reaches_the_config(step):
    names = BY_STEP[step]
    changed = {name: other for name, (_, other) in names.items() if "_m" not in name}
    block = MODULES[step].CBAMChannelPlusCoord(32, **changed)
    arguments = block.config.to_notebook()
    assert {name: arguments[name] for name in changed} == changed
    assert block.config == cc.BlockConfig.from_notebook(step, **changed)
    assert block.ca.config == block.config.channel
    assert block.coord.config == block.config.coord


# --- return tuples --------------------------------------------------------------------------------


@STEPS
@pytest.mark.parametrize("fusion", ["softmax", "sum"])
@pytest.mark.parametrize("wanted", [False, True])
def test_channel_returns(step, fusion, wanted):
    gate = MODULES[step].ChannelAttentionFusionT(8, fusion=fusion, return_fusion_weights=wanted)
    x = x_of()
    result = gate(x)
    assert isinstance(result, tuple)
    router = wanted and (step == 2 or fusion == "softmax")  # step 1 drops it where there is none
    assert len(result) == (3 if router else 2)
    y, ca = result[:2]
    assert ca.shape == (2, 8, 1, 1)
    scale = ca if step == 1 else 1 + 0.35 * (ca - 1)
    assert torch.equal(y, x * scale)
    if router:
        assert (result[2] is None) == (fusion == "sum")
        if fusion == "softmax":
            torch.testing.assert_close(result[2].sum(1), torch.ones(2))


@STEPS
def test_coord_returns_a_tensor(step):
    coord = MODULES[step].CoordinateAttPlus(8)
    assert coord(x_of()).shape == (2, 8, 6, 5)


@STEPS
@pytest.mark.parametrize("fusion", ["softmax", "sum"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_block_returns(step, fusion, residual, training):
    extra = {"monitor": True} if step == 2 else {}
    block = (
        MODULES[step]
        .CBAMChannelPlusCoord(8, ca_fusion=fusion, residual=residual, return_maps=True, **extra)
        .train(training)
    )
    out, ca_map, fusion_w, coord_stats, *monitor = block(x_of())
    assert out.shape == (2, 8, 6, 5)
    assert ca_map.shape == (2, 8, 1, 1)
    assert (fusion_w is None) == (fusion == "sum")
    assert list(coord_stats) == ["a_h", "a_w"]
    assert all(list(numbers) == ["min", "mean", "max", "std"] for numbers in coord_stats.values())
    assert all(type(n) is float for numbers in coord_stats.values() for n in numbers.values())
    assert len(monitor) == (0 if step == 1 else 1)
    if step == 2:
        assert (monitor[0] is not None) == (training and residual)


@STEPS
def test_block_returns_a_tensor_without_maps(step):
    block = MODULES[step].CBAMChannelPlusCoord(8)
    assert isinstance(block(x_of()), torch.Tensor)
    assert isinstance(block.eval()(x_of()), torch.Tensor)


def test_maps_carry_gradients_as_in_the_notebook():
    out, ca_map, fusion_w, *_ = step2.CBAMChannelPlusCoord(8, return_maps=True)(x_of())
    assert out.requires_grad
    assert ca_map.requires_grad
    assert fusion_w.requires_grad


def test_the_block_is_its_parts():
    """The classes alone give, one after the other, what the block gives."""
    for module in (step1, step2):
        block = module.CBAMChannelPlusCoord(8, residual=False)
        x = x_of()
        torch.testing.assert_close(block.coord(block.ca(x)[0]), block(x))


# --- section 8 ------------------------------------------------------------------------------------


def test_section_8(capsys):
    """The notebook's quick test with only its import line changed."""
    from coordcbam import CBAMChannelPlusCoord

    x = torch.randn(2, 64, 56, 56)
    block = CBAMChannelPlusCoord(
        channels=64,
        return_maps=True,
        residual=True,
        learnable_temperature=True,
        monitor=True,
        rescue_mode="ratio_floor",
        min_rescue_ratio=0.2,
        alpha_eff_min=0.2,
        r_min=0.45,
        ema_momentum=0.95,
        beta_ca=0.35,
        ca_router_temperature=1.5,
        ca_t_min=0.5,
        ca_t_max=3.0,
        coord_scale_min=0.6,
        coord_scale_max=1.6,
    )
    block.train()
    out, ca_map, fusion_w, coord_stats, monitor_stats = block(x)
    print("out:", out.shape, "ca_map:", ca_map.shape, "fusion_w:", fusion_w.shape)
    assert capsys.readouterr().out == (
        "out: torch.Size([2, 64, 56, 56]) ca_map: torch.Size([2, 64, 1, 1]) "
        "fusion_w: torch.Size([2, 2])\n"
    )
    assert list(monitor_stats) == [
        "x_std",
        "y_std",
        "out_std_pre",
        "r_block",
        "r_out_pre",
        "r_ema",
        "alpha",
        "alpha_eff",
        "rescue_mode",
    ]
    assert monitor_stats["rescue_mode"] == "ratio_floor"
    assert all(type(v) is float for k, v in monitor_stats.items() if k != "rescue_mode")
    # A fresh block: the masks are near one half and the ratio near .75, whatever the seed.
    assert 0.70 < monitor_stats["r_out_pre"] < 0.78
    assert coord_stats["a_h"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert monitor_stats["alpha_eff"] == monitor_stats["alpha"] == pytest.approx(0.75)


def test_quicktest_is_section_8():
    result = quicktest(seed=1)
    assert ARGUMENTS["channels"] == 64
    assert result.shapes == {
        "x": (2, 64, 56, 56),
        "out": (2, 64, 56, 56),
        "ca_map": (2, 64, 1, 1),
        "fusion_w": (2, 2),
    }
    assert quicktest(seed=1).monitor_stats == result.monitor_stats
    assert quicktest(seed=2).monitor_stats != result.monitor_stats


# --- the sub-blocks -------------------------------------------------------------------------------


@STEPS
def test_last_mask_stats(step):
    coord = MODULES[step].CoordinateAttPlus(8)
    assert coord.last_mask_stats() is None
    coord(x_of())
    first = coord.last_mask_stats()
    coord.eval()(10 * x_of())
    assert coord.last_mask_stats() != first


@STEPS
@pytest.mark.parametrize("return_maps", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_both_paths_of_the_block_update_the_mask_stats(step, return_maps, training):
    block = MODULES[step].CBAMChannelPlusCoord(8, return_maps=return_maps).train(training)
    assert block.coord.last_mask_stats() is None
    x = x_of()
    rows, cols = block.eval().trace(x).coord
    block.train(training)
    result = block(x)
    stats = block.coord.last_mask_stats()
    for name, mask in (("a_h", rows), ("a_w", cols)):
        for key in ("min", "mean", "max", "std"):
            assert stats[name][key] == pytest.approx(getattr(mask, key)().item(), rel=1e-5)
    if return_maps:
        assert result[3] == stats


@STEPS
def test_a_single_element_has_no_spread(step):
    block = MODULES[step].CBAMChannelPlusCoord(1, return_maps=True)
    stats = block(torch.randn(1, 1, 1, 1))[3]
    assert stats["a_h"]["std"] == stats["a_w"]["std"] == 0.0
    assert stats["a_h"]["min"] == stats["a_h"]["max"]


def test_mask_stats_follow_dtypes():
    coord = step2.CoordinateAttPlus(8).half()
    coord(x_of().half())
    assert coord.mask_stats.dtype == torch.float32
    assert 0 <= coord.last_mask_stats()["a_h"]["mean"] <= 1
    assert step2.CoordinateAttPlus(8).double().mask_stats.dtype == torch.float64


@pytest.mark.parametrize("start", [0.1, 0.9, 100.0])
@pytest.mark.parametrize("learnable", [False, True])
def test_get_t(start, learnable):
    x = x_of().double()
    gate = step2.ChannelAttentionFusionT(8, temperature=start, learnable_temperature=learnable)
    t = gate.get_T(x)
    assert t.dim() == 0
    assert t.dtype == torch.float64
    assert t.item() == pytest.approx(min(max(start, 0.5), 3.0), rel=1e-4)
    free = step1.ChannelAttentionFusionT(8, temperature=start, learnable_temperature=learnable)
    if start < 80 or not learnable:  # exp(100) is infinite in float32: a known oddity of step 1
        assert free.get_T().item() == pytest.approx(start, rel=1e-4)
    else:
        assert math.isinf(free.get_T().item())
    assert free.get_T(x).dtype == torch.float64


@STEPS
def test_eps_and_bias(step):
    cls = MODULES[step].ChannelAttentionFusionT
    plain, other = cls(8), cls(8, bias=False, eps=0.25, learnable_temperature=True)
    assert plain.fc1.bias is not None
    assert plain.eps == 1e-6
    assert other.fc1.bias is None
    assert other.fc2.bias is None
    assert other.fusion_router[0].bias is not None
    start = 0.9
    softplus = math.log1p(math.exp(math.log(math.exp(start) - 1)))
    assert other.get_T(x_of()).item() == pytest.approx(softplus + 0.25, rel=1e-5)
    assert "T" not in other.state_dict()


@STEPS
@pytest.mark.parametrize("eps", ["x", None, float("nan"), True])
def test_a_wrong_eps(step, eps):
    with pytest.raises(
        (OptionTypeError, OptionValueError), match=r"eps=.*expected a finite number"
    ):
        MODULES[step].ChannelAttentionFusionT(8, eps=eps)


@STEPS
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("CBAMChannelPlusCoord", "return_maps"),
        ("ChannelAttentionFusionT", "return_fusion_weights"),
        ("ChannelAttentionFusionT", "bias"),
    ],
)
@pytest.mark.parametrize("value", ["False", 1, None])
def test_flags_are_bools(step, name, argument, value):
    with pytest.raises(OptionTypeError, match=f"{argument}={value!r}: expected True or False"):
        getattr(MODULES[step], name)(8, **{argument: value})


@pytest.mark.parametrize(
    ("name", "wrong", "text"),
    [
        (
            "ChannelAttentionFusionT",
            {"gate": "tanh"},
            "ChannelConfig.gate='tanh'.*notebook: ca_gate",
        ),
        ("ChannelAttentionFusionT", {"t_min": None}, "ChannelConfig.t_min=None"),
        (
            "ChannelAttentionFusionT",
            {"beta_ca": -0.1},
            "ChannelConfig.beta=-0.1.*notebook: beta_ca",
        ),
        ("CoordinateAttPlus", {"norm": "ln"}, "CoordConfig.norm='ln': expected one of 'gn'"),
        ("CoordinateAttPlus", {"scale_min": 2.0}, "scale_min <= scale_max"),
        ("CoordinateAttPlus", {"head_init_std": 0}, "CoordConfig.head_init_std=0"),
    ],
)
def test_wrong_arguments_of_the_sub_blocks(name, wrong, text):
    with pytest.raises((OptionTypeError, OptionValueError), match=text):
        getattr(step2, name)(8, **wrong)


def test_step1_has_no_arguments_of_step2():
    for name, argument in (
        ("ChannelAttentionFusionT", "t_min"),
        ("CoordinateAttPlus", "scale_min"),
        ("CBAMChannelPlusCoord", "monitor"),
    ):
        with pytest.raises(TypeError, match=argument):
            getattr(step1, name)(8, **{argument: 1.0})


def test_the_monitor_can_be_switched_as_in_the_notebook():
    block = step2.CBAMChannelPlusCoord(8, return_maps=True).train()
    assert block(x_of())[4] is None
    block.monitor = True
    assert block(x_of())[4]["r_ema"] == block.r_ema.item() != 1.0
    assert block.eval()(x_of())[4] is None


@STEPS
def test_a_bypassed_block_returns_its_input(step):
    for maps in (False, True):
        block = MODULES[step].CBAMChannelPlusCoord(8, return_maps=maps)
        x = x_of()
        with cc.bypass(block):
            result = block(x)
        assert torch.equal(result[0] if maps else result, x)
