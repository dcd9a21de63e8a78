"""Valid configs of every step, drawn from what the fields declare."""

from hypothesis import strategies as st

from coordcbam import BlockConfig
from coordcbam.block import all_rules

LIKE = (1, 2, 3, None)  # None: a mixture, which may come out as any of them


def ends(rule):
    """A closed interval inside the rule: its own ends, or four times the default."""
    reach = 4 * max(abs(rule.default or 1), 1)
    gap = 1 if rule.kind is int else reach / 1000
    low = -reach if rule.low is None else rule.low[0] + (0 if rule.low[1] else gap)
    high = reach if rule.high is None else rule.high[0] - (0 if rule.high[1] else gap)
    return rule.kind(low), rule.kind(high)


def value(rule, like):
    """Everything that the rule accepts, less what would make another step of the config."""
    notebook = like in (1, 2)
    if notebook and rule.ours:
        return st.just(rule.default)
    if like == 1 and rule.optional:
        return st.none()
    if rule.words:
        return st.sampled_from(rule.choices if notebook else rule.words)
    if rule.kind is bool:
        return st.booleans()
    low, high = ends(rule)
    number = st.integers(low, high) if rule.kind is int else st.floats(low, high)
    mixed = rule.optional and (like is None or rule.ours)
    return st.none() | number if mixed or (rule.derived and not notebook) else number


@st.composite
def blocks_of_all_steps(draw):
    """``(like, channels, parts)``: the arguments of a block, fitted to each other."""
    like, channels = draw(st.sampled_from(LIKE)), draw(st.integers(1, 9))
    parts = {"channel": {}, "coord": {}, "mix": {}, "rescue": {}}
    for part, rule in all_rules():
        parts[part][rule.name] = draw(value(rule, like))
    if like == 3:
        _centre(parts)
    _fit_channel(parts["channel"], channels)
    _fit_coord(parts["coord"])
    _fit_mix(parts)
    _fit_rescue(parts["rescue"])
    if like == 1 or (like is None and draw(st.booleans())):
        parts["rescue"] = None
    return like, channels, parts


def _centre(parts):
    for part in ("channel", "coord"):
        parts[part]["space"] = parts[part]["space"].replace("gate", "lin")
    parts["mix"]["init"] = "identity"
    if parts["rescue"]["rescue_mode"].endswith("_floor"):
        parts["rescue"]["rescue_mode"] = "target"


def _fit_channel(values, channels):
    _pair(values, "t_min", "t_max")
    if values["fusion"] == "softmax" and values["fusion_router_hidden"] < 1:
        values["fusion_router_hidden"] = 1 - values["fusion_router_hidden"]
    if max(values["min_hidden"], channels // values["reduction"]) < 1:
        values["min_hidden"] = 1 - values["min_hidden"]
    if values["space"] != "gate":
        values["beta"] = _share(values["beta"])
    if values["t_min"] == values["t_max"]:
        values["t_map"] = "softplus"


def _fit_coord(values):
    _pair(values, "scale_min", "scale_max")
    if values["space"] != "gate":
        values |= {name: _share(values[name]) for name in ("beta", "spatial_gate_beta")}
    if values["space"] == "log" and (values["scale_max"] or 0.0) <= 1.0:
        high = 1.5 + (values["scale_max"] or 0.0)
        values |= {"scale_min": values["scale_min"] or 1.0 / high, "scale_max": high}


def _fit_mix(parts):
    coord = parts["coord"]
    if "gate" in (parts["channel"]["space"], coord["space"]):
        parts["mix"]["init"] = parts["mix"]["init"].replace("identity", "calibrated")
    elif parts["mix"]["init"] == "identity" and coord["scale_min"] is not None:
        coord["scale_min"] = min(coord["scale_min"], 1.0)
        coord["scale_max"] = max(coord["scale_max"], 1.0)
    if parts["mix"]["init"] == "calibrated":  # nothing to divide by where gates leave nothing
        coord |= {name: _share(coord[name]) for name in ("beta", "spatial_gate_beta")}
        parts["channel"]["beta"] = _share(parts["channel"]["beta"])


def _fit_rescue(values):
    ours = values["rescue_mode"] in ("target", "watch")
    if ours and values["r_min"] is not None:
        values["r_min"] = values["r_min"] % 1.0 or 0.5
    if values["rescue_mode"] != "target":
        values["r_max"] = None


def _pair(values, low, high):
    """Both ends or neither, in order."""
    found = [values[name] for name in (low, high) if values[name] is not None]
    values[low], values[high] = (min(found), max(found)) if found else (None, None)


def _share(number):
    """A number into [0, 1]."""
    return 0.35 if number is None else min(abs(number) / 4.0, 1.0)


def config_of(parts):
    return BlockConfig.from_dict(parts)
