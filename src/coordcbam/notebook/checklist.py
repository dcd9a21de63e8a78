"""The notebook's section 5 as eight live checks, each run on a real block and measured."""

import copy
import dataclasses
import math

import torch
from torch import Tensor, nn

from coordcbam.block import BlockConfig, CoordCBAM
from coordcbam.block.target import commit
from coordcbam.kernels import plain

CHANNELS = 64
SHAPE = (2, CHANNELS, 24, 20)
CLOSE = 1e-5  # relative: the checks run in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the list: what is promised, what was measured, and whether that holds.

    ``passed`` is None where the config has no such mechanism.
    """

    name: str
    promise: str
    measured: str
    passed: bool | None


def checklist(config: BlockConfig, *, seed: int = 0) -> list[Check]:
    """Run all eight checks on a block of ``config``, in the notebook's order.

    >>> [check.passed for check in checklist(BlockConfig.step2())]
    [True, True, True, True, True, True, True, True]
    >>> {check.passed for check in checklist(BlockConfig.step1())}
    {None}
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.randn(SHAPE)
        block = CoordCBAM(CHANNELS, config)
        checks = (
            _temperature_clamp,
            _router_temperature,
            _soft_channel_scale,
            _coordinate_clamp,
            _calm_heads,
            _monitor_only_in_training,
            _running_average,
            _rescue_strength,
        )
        return [check(copy.deepcopy(block), x) for check in checks]


@torch.no_grad()
def _temperature_clamp(block: CoordCBAM, x: Tensor) -> Check:
    name = "temperature clamp"
    low, high = block.config.channel.t_min, block.config.channel.t_max
    if low is None or high is None:
        return _absent(name, "T stays in [t_min, t_max]")
    measured = []
    names = [name for name in ("t_logit", "t_raw", "T") if hasattr(block.ca, name)]
    for pushed in (high + 97.0, -97.0):
        getattr(block.ca, names[0]).fill_(pushed)
        measured.append(block.trace(x).channel.temperature.item())
    return Check(
        name=name,
        promise=f"T pushed to {high + 97:g} and below 0 stays in [{low:g}, {high:g}]",
        measured=f"T = {measured[0]:g} and {measured[1]:g}",
        passed=_close(measured[0], high) and _close(measured[1], low),
    )


@torch.no_grad()
def _router_temperature(block: CoordCBAM, x: Tensor) -> Check:
    name = "router temperature"
    router, t = block.ca.fusion_router, block.config.channel.router_temperature
    if router is None or t is None:
        return _absent(name, "softmax(logits / Tr)")
    last = router[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    last.weight.zero_()
    last.bias.copy_(last.bias.new_tensor([2.0, -1.0]))
    fusion = block.trace(x).channel.fusion
    assert fusion is not None
    log_odds = (fusion[0, 0] / fusion[0, 1]).log().item()
    return Check(
        name=name,
        promise=f"logits 3 apart give log odds 3 / Tr = {3.0 / t:.4f}",
        measured=f"log odds {log_odds:.4f}",
        passed=_close(log_odds, 3.0 / t),
    )


@torch.no_grad()
def _soft_channel_scale(block: CoordCBAM, x: Tensor) -> Check:
    name = "soft channel scale"
    beta = block.config.channel.beta
    if beta is None:
        return _absent(name, "y = x * (1 + beta_ca * (ca - 1))")
    if block.config.mix.init == "identity":
        _shake(block)
    maps, gain = plain.gates(x, block.ca, block.coord)
    ca = maps.channel
    promise, factor = {
        "gate": (f"1 + {beta:g} * (ca - 1)", 1.0 + beta * (ca - 1.0)),
        "lin": (f"1 + {beta:g} * (2 * ca - 1)", 1.0 + beta * (2.0 * ca - 1.0)),
        "log": (f"{1 + beta:g} ** (2 * ca - 1)", (1.0 + beta) ** (2.0 * ca - 1.0)),
    }[block.config.channel.space]
    wanted = x * factor
    off = (gain.scaled - wanted).abs().max().item()
    scale = (gain.scaled / x)[x.abs() > 0.1]
    return Check(
        name=name,
        promise=f"y = x * ({promise})",
        measured=f"scale {scale.min().item():.3f} to {scale.max().item():.3f}, off by {off:.1e}",
        passed=off <= CLOSE * wanted.abs().max().item(),
    )


@torch.no_grad()
def _coordinate_clamp(block: CoordCBAM, x: Tensor) -> Check:
    name = "coordinate scale clamp"
    low, high = block.config.coord.scale_min, block.config.coord.scale_max
    if low is None or high is None or block.config.coord.space == "log":
        return _absent(name, "scale.clamp(scale_min, scale_max)")
    one = torch.ones_like(x)
    beta = block.config.coord.beta
    measured = []
    for push in (100.0, -100.0):
        rows = one[..., :1] * push
        gain = block.coord.gain(one, rows, one[..., :1, :])._replace(rows=rows, spatial=None)
        measured.append(plain.apply_gain(gain))
    raw = [1.0 + beta * (push - 1.0) for push in (100.0, -100.0)]
    held = [min(max(value, low), high) for value in raw]
    return Check(
        name=name,
        promise=f"a scale pushed to {raw[0]:g} and {raw[1]:g} stays in [{low:g}, {high:g}]",
        measured=" and ".join(f"{scale.min().item():g}" for scale in measured),
        passed=all(
            _close(end.item(), bound)
            for scale, bound in zip(measured, held, strict=True)
            for end in (scale.min(), scale.max())
        ),
    )


@torch.no_grad()
def _calm_heads(block: CoordCBAM, x: Tensor) -> Check:
    name = "calm coordinate heads"
    std = block.config.coord.head_init_std
    if std is None:
        return _absent(name, "head weights of small std, bias 0")
    heads = (block.coord.h_attention_head, block.coord.w_attention_head)
    if block.config.mix.init == "identity":
        largest = max(p.abs().max().item() for head in heads for p in head.parameters())
        same = torch.equal(block.eval()(x), x)
        return Check(
            name=name,
            promise="heads at 0, so that a fresh block returns its input",
            measured=f"largest weight or bias {largest:g}, output {'is' if same else 'is not'} x",
            passed=largest == 0.0 and same,
        )
    spread = [head.weight.std().item() for head in heads]
    bias = max(head.bias.abs().max().item() for head in heads if head.bias is not None)
    # The sample std of n normal weights has a relative error of about 1 / sqrt(2 n).
    margin = 5.0 / math.sqrt(2.0 * heads[0].weight.numel())
    return Check(
        name=name,
        promise=f"head weights of std {std:g}, bias 0",
        measured=f"std {spread[0]:.4g} and {spread[1]:.4g}, largest bias {bias:g}",
        passed=all(abs(s / std - 1.0) <= margin for s in spread) and bias == 0.0,
    )


def _monitor_only_in_training(block: CoordCBAM, x: Tensor) -> Check:
    name = "monitor only in training"
    if block.rescue is None or not block.mixes:
        return _absent(name, "r_ema moves only with training and monitor=True")
    start = 0.5
    seen = {}
    for training, monitor in ((True, False), (False, True), (True, True)):
        trial = copy.deepcopy(block).train(training)
        trial.monitor = monitor
        trial.r_ema.fill_(start)
        trial(x)
        commit([trial] if trial.targets else [])
        seen[training, monitor] = trial.r_ema.item()
    return Check(
        name=name,
        promise=f"r_ema {start} stays in eval and with the monitor off, and moves with both on",
        measured=f"monitor off {seen[True, False]:g}, eval {seen[False, True]:g}, "
        f"both on {seen[True, True]:.4f}",
        passed=seen[True, False] == seen[False, True] == start != seen[True, True],
    )


def _running_average(block: CoordCBAM, x: Tensor) -> Check:
    name = "running average r_ema"
    if block.rescue is None or not block.mixes:
        return _absent(name, "r_ema <- m * r_ema + (1 - m) * r_out, kept in the checkpoint")
    block.train().monitor = True
    m = block.rescue.ema_momentum
    if block.targets:
        _shake(block)
        first, second = (_rho(block, batch) for batch in (x, x.square()))
        weight = (1.0 - m) / (1.0 - m * m)
        wanted = first + weight * (second - first)
        promise = f"rho {first:.4f}, then {second:.4f}: {wanted:.5f}, without the bias of a start"
    else:
        r_out = block.trace(x).stats.r_out_pre.item()
        wanted = m + (1.0 - m) * r_out
        promise = f"one batch moves r_ema from 1 to {m:g} + {1 - m:g} * {r_out:.4f} = {wanted:.5f}"
    return Check(
        name=name,
        promise=promise,
        measured=f"{block.r_ema.item():.5f}"
        + ("" if "r_ema" in block.state_dict() else ", not in the checkpoint"),
        passed=_close(block.r_ema.item(), wanted) and "r_ema" in block.state_dict(),
    )


def _rescue_strength(block: CoordCBAM, x: Tensor) -> Check:
    name = "rescue"
    rescue = block.rescue
    if rescue is None or rescue.r_min is None or not block.mixes or rescue.rescue_mode == "watch":
        return _absent(name, "alpha_eff falls with r_ema, by rescue_mode")
    block.train().monitor = True
    low = block.r_ema.fill_(rescue.r_min / 4.0).item()
    stats = block.trace(x).stats
    alpha, ratio = stats.alpha.item(), min(block.r_ema.item() / rescue.r_min, 1.0)
    if rescue.rescue_mode == "target":
        wanted = alpha * (1.0 - rescue.r_min) / (1.0 - low)
    elif rescue.rescue_mode == "ratio_floor":
        wanted = alpha * max(ratio, rescue.min_rescue_ratio)
    else:
        wanted = max(alpha * ratio, rescue.alpha_eff_min)
    return Check(
        name=name,
        promise=f"r_ema {block.r_ema.item():.3f} under r_min {rescue.r_min:g}: "
        f"alpha {alpha:.3f} becomes {wanted:.3f} ({rescue.rescue_mode})",
        measured=f"alpha_eff {stats.alpha_eff.item():.3f}",
        passed=_close(stats.alpha_eff.item(), wanted),
    )


@torch.no_grad()
def _shake(block: CoordCBAM) -> None:
    """Weights that make a block of step 3 do something."""
    for parameter in block.parameters():
        parameter.normal_(std=0.3)


def _rho(block: CoordCBAM, x: Tensor) -> float:
    """The share of the signal kept by one training batch, which is then committed."""
    rho = block.trace(x).stats.rho.item()
    commit([block])
    return rho


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-7)


def _absent(name: str, promise: str) -> Check:
    return Check(name=name, promise=promise, measured="absent in this config", passed=None)
