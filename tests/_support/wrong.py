"""What no constructor and no block may take: values by each option's rule, and tensors."""

import decimal

import numpy as np
import torch

from _support.configs import STEP2, wrong_values
from coordcbam import BlockConfig, ChannelConfig
from coordcbam.block import all_rules

NAN, INF = float("nan"), float("inf")


class Mute:
    """An object that cannot be printed."""

    def __repr__(self):
        raise RuntimeError("no words")


ODD = (None, [], {}, b"1", (1,), 1j, Mute(), object(), np.ones((2, 2)), torch.ones(2, 2))
FLAGS = ("off", "False", "", 0, 1, 0.0, "True", NAN)
WORDS = ("no such word", "", 1, True, " softmax", b"gn", "gate ", NAN)
TEXTS = (True, False, "1", "nan", "1e3")
NUMBERS = (
    *TEXTS,
    NAN,
    INF,
    -INF,
    np.float32("nan"),
    np.float64("inf"),
    np.float16("-inf"),
    decimal.Decimal("NaN"),
    torch.tensor(0.5),
)
# Beyond a C int, beyond every float, beyond what Python prints; and infinite in float32.
INTEGERS = (*NUMBERS, 1.5, 2.0, np.float64(2.0), 2**31, -(2**31), 10**30, 10**5000)
FLOATS = (*NUMBERS, 10**400, 10**5000, 1e39, -1e39)


def by_rule(rule):
    """Wrong values of one option, from what its field declares.

    An end that is outside takes what rounds to it in float32 with it.
    """
    if rule.words:
        upper = () if rule.any_case else tuple(word.upper() for word in rule.words)
        return (*ODD, *WORDS, *upper)
    if rule.kind is bool:
        return (*ODD, *FLAGS)
    ends = []
    for end, step in ((rule.low, -1), (rule.high, 1)):
        if end is not None:
            ends += [end[0] + step] + ([] if end[1] else [end[0], end[0] - step * 1e-46])
    return (*ODD, *(INTEGERS if rule.kind is int else FLOATS), *ends)


def wrong_options():
    """``(part, rule, value)`` for every option; None only where it is no option's word."""
    for part, rule in all_rules():
        by_hand = wrong_values(rule.flag) if rule.flag in STEP2 else ()
        for value in (*by_rule(rule), *by_hand):
            if value is not None or not (rule.optional or rule.derived):
                yield part, rule, value


# Options that are fine alone: what is changed of which preset, and what the error has to say.
TOGETHER = [
    ("step2", {"ca_t_min": 2.0, "ca_t_max": 1.0}, "t_min=2.0, t_max=1.0"),
    ("step2", {"ca_t_min": None}, "t_min=None, t_max=3.0"),
    ("step3", {"ca_t_max": None}, "t_min=0.5, t_max=None"),
    ("step3", {"ca_t_min": None, "ca_t_max": None}, "t_map='sigmoid'"),
    ("step3", {"ca_t_min": 1.0, "ca_t_max": 1.0}, "t_map='sigmoid'"),
    ("step2", {"coord_scale_min": 1.7}, "scale_min=1.7, scale_max=1.6"),
    ("step2", {"coord_scale_max": None}, "scale_min=0.6, scale_max=None"),
    ("step2", {"ca_fusion_router_hidden": 0}, "fusion_router_hidden=0"),
    ("step2", {"ca_fusion_router_hidden": -3}, "fusion_router_hidden=-3"),
    ("step3", {"beta_ca": None}, "beta=None"),
    ("step3", {"beta_ca": 1.01}, "beta=1.01"),
    ("step2", {"ca_space": "log", "beta_ca": 3.0}, "beta=3.0"),
    ("step1", {"ca_space": "lin"}, "beta=None"),
    ("step3", {"coord_beta": -0.1}, "beta=-0.1"),
    ("step3", {"coord_beta": 1.5}, "beta=1.5"),
    ("step3", {"coord_spatial_gate_beta": 2.0}, "spatial_gate_beta=2.0"),
    ("step2", {"coord_space": "log", "coord_spatial_gate_beta": -1.0}, "spatial_gate_beta=-1.0"),
    ("step2", {"coord_space": "log", "coord_scale_max": 1.0}, "scale_max=1.0"),
    ("step1", {"coord_space": "log"}, "scale_max=None"),
    ("step2", {"init": "identity"}, "init='identity'"),
    ("step2", {"init": "identity", "ca_space": "lin"}, "init='identity'"),
    ("step3", {"ca_space": "gate"}, "init='identity'"),
    ("step3", {"coord_space": "gate"}, "init='identity'"),
    ("step3", {"coord_scale_min": 1.1}, "scale_min=1.1"),
    ("step3", {"coord_scale_max": 0.9}, "scale_max=0.9"),
    ("step2", {"init": "calibrated", "beta_ca": 2.0}, "init='calibrated'"),  # by 0
    ("step2", {"init": "calibrated", "beta_ca": 2.0, "coord_space": "lin"}, "init='calibrated'"),
    (
        "step2",
        {"init": "calibrated", "coord_beta": 3.0, "coord_scale_min": None, "coord_scale_max": None},
        "init='calibrated'",
    ),  # by less
    ("step3", {"r_min": 1.0}, "r_min=1.0"),
    ("step3", {"r_min": 50.0}, "r_min=50.0"),
    ("step3", {"rescue_mode": "watch", "r_min": 2.0}, "r_min=2.0"),
    ("step3", {"rescue_mode": "watch", "r_max": 2.0}, "r_max=2.0"),
    ("step2", {"r_max": 2.0}, "r_max=2.0"),
    ("step2", {"rescue_mode": "alpha_floor", "r_max": 1.5}, "r_max=1.5"),
    ("step1", {"r_min": 0.5}, "r_min=0.5"),  # there is no rescue
    ("step1", {"monitor": True}, "monitor=True"),
]

CHANNELS = [0, -1, True, "8", 8.0, None, [8], NAN, INF, 1j, b"8", np.float64(8.0), 2**31, 10**30]
CHANNELS += [10**5000, torch.tensor(8), Mute()]
NOT_FLAGS = ["off", "False", 0, 1, None, [], 1.0, NAN]
NOT_CONFIGS = [{}, [], False, 0, "", "step2", 3, b"x", BlockConfig, Mute()]
NOT_PARTS = [*NOT_CONFIGS, BlockConfig.step2()]
NOT_MODELS = [None, "model", 3, [], torch.nn.Conv2d, torch.ones(1), Mute()]
NOT_R_MIN = [0.0, 1.0, 1.5, -0.1, None, "0.9", NAN, INF, True, [], 1j, b"1", 1e-46]
NOT_R_MAX = [1.0, 0.5, "2", INF, NAN, True, [], 1e39, b"2"]
NOT_MOMENTUM = [0.0, 1.0, -0.5, 2, None, "0.9", NAN, True, [], b"1"]
NOT_EPS = ["x", None, NAN, INF, True, 10**400, 1e39, [], b"1"]
NOT_COUNTS = [0, -1, 1.5, "1", True, None, NAN, [], b"1", 2.0]
NOT_PLACES = [None, 3, 3.5, True, b"0", [3], [None], [], (), "", "nowhere"]
NOT_DECAYS = ["x", None, -1.0, NAN, INF, True, []]
NOT_STEPS = [0, 3, "2", None, True, 2.5, NAN, np.ones(2), [1], Mute()]
NOT_PRESETS = ["step9", "", None, 3, [], b"step1", ChannelConfig]
