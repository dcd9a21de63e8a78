"""Step 3: its formulas from its maps, the exact identity at the start, bounded parameters, forms."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call

from _support.shaken import closed, shaken, step3
from coordcbam import BlockConfig, CoordCBAM, UnreachableRescueWarning
from coordcbam.block import OptionValueError
from coordcbam.block.bounded import MARGIN
from coordcbam.kernels import chosen, use

SPACES = {"lin": {}, "log": {"ca_space": "log", "coord_space": "log"}}


@pytest.fixture(params=["plain", "auto"])
def kernel(request):
    """The formulas as they are written in the block, and as the kernels have them."""
    before = chosen()
    use(request.param)
    yield request.param
    use(before)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_the_formula(space, spatial):
    """The output recomputed from the maps by the formulas as they are written down."""
    block = shaken(step3(coord_use_spatial_gate=spatial, **SPACES[space])).double()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    t = block.trace(x)
    u = 2 * t.channel.gate - 1
    u_h, u_w = 2 * t.coord.rows - 1, 2 * t.coord.cols - 1
    a_h, a_w = torch.sigmoid(block.coord.alpha_h_raw), torch.sigmoid(block.coord.alpha_w_raw)
    if space == "lin":
        s = 1 + 0.35 * u
        k = (1 + 0.35 * ((1 + a_h * u_h) * (1 + a_w * u_w) - 1)).clamp(0.6, 1.6)
    else:
        s = torch.exp(math.log(1.35) * u)
        k = torch.exp(math.log(1.6) / 2 * (a_h * u_h + a_w * u_w))
    y = x * s * k
    if spatial:
        gate = nn.functional.hardsigmoid(
            block.coord.spatial_gate_pw(block.coord.spatial_gate_dw(x * s))
        )
        y = y * (1 + 0.35 * (2 * gate - 1) if space == "lin" else 1.35 ** (2 * gate - 1))
    alpha = torch.sigmoid(block.alpha_raw)
    torch.testing.assert_close(t.out, x + alpha * (y - x), rtol=1e-12, atol=1e-12)
    assert t.stats.rho.item() == pytest.approx(
        ((x * t.out).sum((1, 2, 3)) / (x * x).sum((1, 2, 3))).mean().item()
    )


@pytest.mark.usefixtures("kernel")
def test_the_clamp_of_lin_binds_above():
    block = closed(step3(), logit=50.0).eval()
    out = block(torch.ones(1, 8, 4, 4))
    torch.testing.assert_close(out, torch.full_like(out, 1 + 0.75 * (1.35 * 1.6 - 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "flags",
    [
        {},
        SPACES["log"],
        {"coord_use_spatial_gate": True},
        {"coord_norm": "bn", "ca_fusion": "sum"},
        {"learnable_temperature": True, "learnable_alpha": True, "ca_gate": "hardsigmoid"},
        {"residual": False},
        {"coord_scale_min": None, "coord_scale_max": None},
    ],
    ids=str,
)
def test_a_fresh_block_is_the_identity(flags, training, dtype):
    for shape in ((2, 33, 7, 5), (1, 33, 1, 1)):
        block = step3(33, **flags).to(dtype).train(training)
        if flags.get("coord_norm") == "bn" and training:
            shape = (2, 33, 7, 5)  # noqa: PLW2901  (batch statistics of one value are refused)
        x = 3 * torch.randn(shape).to(dtype)
        assert torch.equal(block(x), x)


def test_identity_under_autocast():
    block, x = step3(16), torch.randn(2, 16, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(block(x), x)


def test_the_identity_is_at_zero_last_layers_only_and_learns_from_there():
    block, x = step3(16), torch.randn(4, 16, 6, 6)
    plain = CoordCBAM(16, BlockConfig.step3().replace(init="notebook"))
    assert block.ca.fc1.weight.abs().max() > 0
    assert not torch.equal(plain.train()(x), x)
    (block(x) * torch.randn_like(x)).sum().backward()
    moving = {name for name, p in block.named_parameters() if p.grad.abs().max() > 0}
    lasts = ("ca.fc2", "coord.h_attention_head", "coord.w_attention_head")
    assert moving == {f"{last}.{kind}" for last in lasts for kind in ("weight", "bias")}


@pytest.mark.parametrize("flags", [{"beta_ca": 1.1}, {"beta_ca": None}, {"coord_beta": 1.1}])
def test_a_centred_scale_is_never_negative(flags):
    with pytest.raises(OptionValueError, match="expected a number from 0 to 1 with space='lin'"):
        BlockConfig.step3().replace(**flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"ca_space": "gate"}, "init='identity': expected 'lin' or 'log'"),
        ({"coord_space": "gate"}, "init='identity': expected 'lin' or 'log'"),
        ({"coord_scale_min": 1.1}, "expected 1 between them"),
        ({"coord_scale_min": 0.5, "coord_scale_max": 0.9}, "expected 1 between them"),
        ({"ca_t_min": 1.0, "ca_t_max": 1.0}, "t_map='sigmoid': expected 'softplus' unless"),
        ({"coord_space": "log", "coord_scale_max": 1.0}, "scale_max=1.0: expected a number > 1"),
        ({"r_min": 1.0}, "r_min=1.0: expected a number < 1"),
        ({"r_max": 2.0, "rescue_mode": "watch"}, "r_max=2.0: expected None unless"),
        ({"r_max": 1.0}, "r_max=1.0: expected a finite number > 1"),
    ],
)
def test_options_that_do_not_fit(flags, words):
    with pytest.raises(OptionValueError, match=words):
        BlockConfig.step3().replace(**flags)


def test_step3_is_named_in_every_reading():
    config = BlockConfig.step3()
    assert (config.step, config.name) == (3, "step3")
    assert config.replace(ca_space="log", coord_space="log").step == 3
    assert config.replace(rescue_mode="watch").step == 3
    assert config.replace(init="notebook").step is None
    assert BlockConfig.step2().replace(rescue_mode="target", r_min=None).step is None
    assert BlockConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="this config is step3: the notebook has no such block"):
        config.to_notebook()


@pytest.mark.parametrize("option", ["rescue_mode", "r_min", "ca_space", "init"])
def test_the_notebook_does_not_know_ours(option):
    value = {"rescue_mode": "target", "r_min": None}.get(option, "lin")
    with pytest.raises(ValueError, match=option):
        BlockConfig.from_notebook(**{option: value})


def test_calibrated_step2_keeps_the_signal():
    x = torch.randn(8, 64, 12, 12)
    gains = {}
    for init in ("notebook", "calibrated"):
        block = CoordCBAM(64, BlockConfig.step2().replace(init=init)).eval()
        gains[init] = (block(x).norm() / x.norm()).item()
    assert gains["notebook"] == pytest.approx(0.744, abs=0.01)
    assert gains["calibrated"] == pytest.approx(1.0, abs=0.01)


# --- bounded parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", [1e-3, 0.5, 0.9, 2.9, 3.0, 10.0, 1e30])
def test_a_temperature_moves_from_every_start(start, dtype):
    block = step3(learnable_temperature=True, ca_temperature=start).to(dtype)
    nn.init.normal_(block.ca.fc2.weight)
    t = block.ca.temperature(torch.zeros((), dtype=dtype))
    assert 0.5 <= t.item() <= 3.0
    assert t.item() == pytest.approx(
        min(max(start, 0.5 + 2.5 * MARGIN), 3 - 2.5 * MARGIN), rel=0.02
    )
    x = torch.randn(2, 8, 5, 5, dtype=dtype)
    (block(x) * torch.randn_like(x)).sum().backward()
    assert block.ca.t_logit.grad.abs() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", [-1.0, 0.0, 1e-9, 0.5, 1.0, 7.0])
def test_alphas_move_from_every_start(start, dtype):
    block = step3(learnable_alpha=True, alpha_init=start, coord_init_alpha=start)
    block = shaken_gates(block).to(dtype)
    x = torch.randn(2, 8, 5, 5, dtype=dtype)
    (block(x) * torch.randn_like(x)).sum().backward()
    for raw in (block.alpha_raw, block.coord.alpha_h_raw, block.coord.alpha_w_raw):
        assert raw.grad.abs() > 0


def shaken_gates(block):
    """Gates off their middle; the bounded scalars as they start."""
    for name, parameter in block.named_parameters():
        if parameter.dim():
            nn.init.normal_(parameter, std=0.3)
        else:
            assert "raw" in name
    return block


def test_a_temperature_pushed_outside_comes_back():
    block = step3(learnable_temperature=True)
    with torch.no_grad():
        block.ca.t_logit.fill_(4.0)
    optimizer = torch.optim.SGD([block.ca.t_logit], lr=20.0)
    for _ in range(50):
        optimizer.zero_grad()
        block.ca.temperature(torch.zeros(())).backward()
        optimizer.step()
    assert block.ca.temperature(torch.zeros(())).item() < 1.0


@pytest.mark.parametrize("learned", [False, True])
def test_an_older_temperature_is_converted(learned):
    """A fixed or softplus temperature becomes the same temperature under the sigmoid map."""
    flags = {"learnable_temperature": learned, "ca_temperature": 1.7}
    old = CoordCBAM(8, BlockConfig.step2().replace(**flags))
    new_flags = {**flags, "learnable_temperature": True, "ca_t_map": "sigmoid"}
    new = CoordCBAM(8, BlockConfig.step2().replace(**new_flags))
    with torch.no_grad():
        new.ca.t_logit.fill_(-3.0)
    state = old.state_dict()
    keys = list(state)
    new.load_state_dict(state)
    assert list(state) == keys
    like = torch.zeros(())
    torch.testing.assert_close(new.ca.temperature(like), old.ca.temperature(like))
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(new.eval()(x), old.eval()(x))


# --- forms ----------------------------------------------------------------------------------------

FORMS = {
    "step2": BlockConfig.step2(),
    "step3": BlockConfig.step3(),
    "log": BlockConfig.step3().replace(**SPACES["log"]),
    "calibrated": BlockConfig.step2().replace(init="calibrated"),
    "one gate": BlockConfig.step2().replace(ca_space="log"),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("source", FORMS)
def test_states_of_different_functions_do_not_mix(source, target, strict):
    model = nn.Sequential(nn.Identity(), CoordCBAM(8, FORMS[target]))
    state = nn.Sequential(nn.Identity(), CoordCBAM(8, FORMS[source])).state_dict()
    if source == target:
        model.load_state_dict(state, strict=strict)
        return
    with pytest.raises(RuntimeError, match=r"the state of 1 was made with ca_space="):
        model.load_state_dict(state, strict=strict)


def test_the_form_survives_what_a_host_does_to_a_state():
    block = step3()
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in block.state_dict().items()
    }
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    copy.deepcopy(block).load_state_dict(state)
    step1 = dict(CoordCBAM(8, BlockConfig.step1()).state_dict().items())
    with pytest.raises(RuntimeError, match="would compute something else"):
        block.load_state_dict(step1, strict=False)


def test_functional_call_runs():
    block, x = shaken(step3()).eval(), torch.randn(1, 8, 4, 4)
    assert torch.equal(functional_call(block, dict(block.named_parameters()), (x,)), block(x))


def test_an_unreachable_rescue_warns_where_the_block_is_built():
    with pytest.warns(UnreachableRescueWarning, match="every gain is at least 0.567") as caught:
        step3(r_min=0.5)
    assert caught[0].filename.endswith("shaken.py")  # the caller's line, not ours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step3(r_min=0.57)
        step3(r_min=0.5, rescue_mode="watch")
        CoordCBAM(8, BlockConfig.step2())


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernel")
def test_log_has_its_reach_from_scale_max_alone():
    x = torch.randn(2, 8, 5, 4)
    loose, tight = (
        closed(step3(**SPACES["log"], coord_scale_min=low)).eval()(x) for low in (0.6, 1.0)
    )
    assert torch.equal(loose, tight)


@pytest.mark.parametrize(
    "flags",
    [{}, {"coord_beta": 1.0}, {"coord_use_spatial_gate": True}, {"coord_init_alpha": 0.2}],
    ids=["default", "clamped", "spatial", "faint masks"],
)
def test_a_calibrated_block_with_every_gate_at_one_half_is_the_identity(flags):
    block = CoordCBAM(8, BlockConfig.step2(init="calibrated", **flags)).eval()
    lasts = [block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head]
    if block.config.coord.use_spatial_gate:
        lasts.append(block.coord.spatial_gate_pw)
    for parameter in nn.ModuleList(lasts).parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 5, 4)
    trace = block.trace(x)
    torch.testing.assert_close(trace.out, x)
    if set(flags) <= {"coord_init_alpha"}:  # the mean is of the gates alone, before the clamp
        assert trace.stats.gain_mean.item() == pytest.approx(1.0)


def test_a_few_tensors_are_nobodys():
    """One gate's weights, as of a warm start, may be loaded into any block."""
    whole = CoordCBAM(8, BlockConfig.step2()).state_dict()
    few = {key: value for key, value in whole.items() if key.startswith("ca.fc")}
    block = step3()
    block.load_state_dict(few, strict=False)
    assert torch.equal(block.ca.fc1.weight, few["ca.fc1.weight"])
