"""What every option accepts, written down by hand once: the tests' view of the notebook."""

# name: (default, an accepted other value); the order is the notebook's.
STEP1 = {
    "ca_reduction": (16, 1),
    "ca_min_hidden": (4, -5),
    "ca_fusion": ("softmax", "sum"),
    "ca_gate": ("sigmoid", "hardsigmoid"),
    "ca_temperature": (0.9, 100.0),
    "ca_act": ("relu", "silu"),
    "ca_fusion_router_hidden": (16, 1),
    "learnable_temperature": (False, True),
    "coord_reduction": (32, 1),
    "coord_min_mid": (8, -3),
    "coord_act": ("hswish", "silu"),
    "coord_init_alpha": (0.7, 5.0),
    "coord_learnable_alpha": (True, False),
    "coord_beta": (0.35, -3.0),
    "coord_dilation": (2, 500),
    "coord_norm": ("gn", "none"),
    "coord_use_spatial_gate": (False, True),
    "coord_spatial_gate_beta": (0.35, -2.0),
    "residual": (True, False),
    "alpha_init": (0.75, 7.0),
    "learnable_alpha": (False, True),
}
STEP2_ONLY = {
    "ca_t_min": (0.5, 3.0),
    "ca_t_max": (3.0, 0.5),
    "ca_router_temperature": (1.5, 1e-3),
    "beta_ca": (0.35, 0.0),
    "coord_scale_min": (0.6, 1.6),
    "coord_scale_max": (1.6, 0.6),
    "coord_head_init_std": (0.01, 1e-9),
    "monitor": (False, True),
    "r_min": (0.45, 50.0),
    "ema_momentum": (0.95, 0.001),
    "min_rescue_ratio": (0.2, 0.0),
    "alpha_eff_min": (0.2, 1.0),
    "rescue_mode": ("ratio_floor", "alpha_floor"),
}
STEP2 = {**STEP1, **STEP2_ONLY}
BY_STEP = {1: STEP1, 2: STEP2}

# What each number may be, as (low, low may be reached, high, high may be reached).
POSITIVE = (0.0, False, None, None)
INTERVALS = {
    "ca_reduction": (1, True, None, None),
    "coord_reduction": (1, True, None, None),
    "coord_dilation": (1, True, None, None),
    **dict.fromkeys(
        (
            "ca_temperature",
            "ca_t_min",
            "ca_t_max",
            "ca_router_temperature",
            "coord_scale_min",
            "coord_scale_max",
            "coord_head_init_std",
            "r_min",
        ),
        POSITIVE,
    ),
    "beta_ca": (0.0, True, None, None),
    "ema_momentum": (0.0, False, 1.0, False),
    "min_rescue_ratio": (0.0, True, 1.0, True),
    "alpha_eff_min": (0.0, True, 1.0, True),
}
ANY_CASE = {"ca_gate", "ca_act", "coord_act", "coord_norm"}


def kind(name):
    return type(STEP2[name][0])


def wrong_values(name):
    """Values of the wrong type or out of range, by the notebook's rules and by common sense."""
    wrong = [[], {}, object, b"1", (1,), 1j]
    if kind(name) is bool:
        wrong += ["off", "False", "", 0, 1, 0.0, "True"]
    elif kind(name) is str:
        wrong += ["no such word", "", 1, True, " softmax"]
        if name not in ANY_CASE:
            wrong.append(str(STEP2[name][0]).upper())
    else:
        wrong += [True, False, "1", "nan", float("nan"), float("inf"), float("-inf")]
        if kind(name) is int:
            wrong += [1.5, 2.0]
        else:
            wrong += [10**400]
        low, low_in, high, high_in = INTERVALS.get(name, (None, None, None, None))
        if low is not None:
            wrong += [low - 1] + ([] if low_in else [kind(name)(low)])
        if high is not None:
            wrong += [high + 1.0] + ([] if high_in else [high])
    return wrong
