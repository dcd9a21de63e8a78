"""Options: every argument of the notebook both ways, presets, round trips and refusals."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from _support.configs import ANY_CASE, BY_STEP, INTERVALS, STEP1, STEP2, kind, wrong_values
from coordcbam import (
    BlockConfig,
    ChannelConfig,
    CoordCBAM,
    CoordConfig,
    MixConfig,
    RescueConfig,
)
from coordcbam.block import OptionTypeError, OptionValueError, all_rules

RULES = {rule.flag: (part, rule) for part, rule in all_rules()}
CLASSES = {
    "channel": ChannelConfig,
    "coord": CoordConfig,
    "mix": MixConfig,
    "rescue": RescueConfig,
}
EVERY_NAME = pytest.mark.parametrize("name", STEP2)


def companions(name, value):
    """Arguments that must move with ``name`` to keep low <= high."""
    if name in ("ca_t_min", "ca_t_max"):
        return {"ca_t_min": value, "ca_t_max": value}
    if name in ("coord_scale_min", "coord_scale_max"):
        return {"coord_scale_min": value, "coord_scale_max": value}
    return {name: value}


def test_34_and_21_arguments():
    assert len(STEP2) == 34
    assert len(STEP1) == 21
    assert {flag for flag, (_, rule) in RULES.items() if not rule.ours} == STEP2.keys()


@pytest.mark.parametrize("step", [1, 2])
def test_presets_are_the_notebooks_defaults(step):
    config = getattr(BlockConfig, f"step{step}")()
    assert config == BlockConfig.preset(f"step{step}") == BlockConfig.from_notebook(step)
    assert config.step == step
    assert config.to_notebook() == {name: default for name, (default, _) in BY_STEP[step].items()}


def test_the_defaults():
    assert BlockConfig() == BlockConfig.step2()
    assert BlockConfig.step3() == CoordCBAM(8).config
    assert BlockConfig.step1() != BlockConfig.step2()
    assert BlockConfig.step1().rescue is None


@pytest.mark.parametrize(
    ("step", "name"), [(step, name) for step in (1, 2) for name in BY_STEP[step]]
)
def test_every_argument_maps_both_ways(step, name):
    value = BY_STEP[step][name][1]
    changed = companions(name, value)
    config = BlockConfig.from_notebook(step, **changed)
    part, rule = RULES[name]
    assert getattr(getattr(config, part), rule.name) == value
    defaults = {key: default for key, (default, _) in BY_STEP[step].items()}
    assert config.to_notebook() == {**defaults, **changed}
    assert BlockConfig.from_notebook(step, **config.to_notebook()) == config
    assert config != BlockConfig.from_notebook(step)


@pytest.mark.parametrize("name", sorted(set(STEP2) - set(STEP1)))
def test_step1_lacks_the_arguments_of_step2(name):
    with pytest.raises(OptionTypeError, match=f"unknown option '{name}'"):
        BlockConfig.from_notebook(1, **{name: STEP2[name][0]})


@pytest.mark.parametrize("step", [0, 3, "2", None, "step2", 2.5])
def test_only_two_steps(step):
    with pytest.raises(OptionValueError, match="expected 1 or 2"):
        BlockConfig.from_notebook(step)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("coord_bta", "coord_beta"), ("beta", ""), ("channels", ""), ("ca_tmin", "t_min")],
)
def test_an_unknown_argument_names_the_nearest(word, hint):
    with pytest.raises(OptionTypeError, match=rf"unknown option '{word}'.*{hint}"):
        BlockConfig.from_notebook(**{word: 1})


def test_an_unknown_preset_names_the_known():
    with pytest.raises(ValueError, match=r"'step9': expected one of 'step3', 'step2', 'step1'"):
        BlockConfig.preset("step9")


# --- refusals -------------------------------------------------------------------------------------

WRONG = [
    pytest.param(name, value, id=f"{name}-{str(value)[:12]}-{type(value).__name__}")
    for name in STEP2
    for value in wrong_values(name)
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_by_name_value_and_rule(name, value):
    part, rule = RULES[name]
    with pytest.raises((OptionValueError, OptionTypeError)) as caught:
        BlockConfig.from_notebook(**{name: value})
    text = str(caught.value)
    assert f"{CLASSES[part].__name__}.{rule.name}=" in text
    assert f"expected {rule.expected}" in text
    assert f"notebook: {name}" in text
    assert "\n" not in text
    assert isinstance(caught.value, ValueError)  # also a wrong type: the notebook raised ValueError
    with pytest.raises((OptionValueError, OptionTypeError)):
        CLASSES[part](**{rule.name: value})


@EVERY_NAME
def test_the_rule_says_what_the_notebook_accepts(name):
    """Ranges and words that were written down by hand, against what the fields declare."""
    _, rule = RULES[name]
    assert rule.kind is kind(name)
    assert rule.any_case == (name in ANY_CASE)
    low, low_in, high, high_in = INTERVALS.get(name, (None,) * 4)
    assert rule.low == (None if low is None else (low, low_in))
    assert rule.high == (None if high is None else (high, high_in))
    assert rule.help
    assert rule.optional == (name in STEP2 and name not in STEP1 and RULES[name][0] != "rescue")


@pytest.mark.parametrize("name", sorted(INTERVALS))
def test_the_ends_of_a_range(name):
    low, low_in, high, high_in = INTERVALS[name]
    for end, inside in ((low, low_in), (high, high_in)):
        if end is not None and inside:
            BlockConfig.from_notebook(**companions(name, kind(name)(end)))
    tiny = 1 if kind(name) is int else 1e-30
    BlockConfig.from_notebook(**companions(name, tiny))


@EVERY_NAME
@pytest.mark.parametrize("step", [1, 2])
def test_the_notebook_knows_no_none(name, step):
    if name in BY_STEP[step]:
        with pytest.raises(OptionTypeError, match=f"=None: expected .*notebook: {name}") as caught:
            BlockConfig.from_notebook(step, **{name: None})
        assert "or None" not in str(caught.value)


@pytest.mark.parametrize(
    ("low", "high"), [("ca_t_min", "ca_t_max"), ("coord_scale_min", "coord_scale_max")]
)
def test_pairs_keep_their_order(low, high):
    with pytest.raises(OptionValueError, match=rf"expected .*<=.*{low}, {high}"):
        BlockConfig.from_notebook(**{low: 2.0, high: 1.0})
    assert BlockConfig.from_notebook(**{low: 2.0, high: 2.0}).step == 2
    with pytest.raises(OptionValueError, match="or None for both"):
        BlockConfig.step2().replace(**{low: None})
    assert BlockConfig.step2().replace(**{low: None, high: None}).step is None


@pytest.mark.parametrize("hidden", [0, -3])
def test_the_router_needs_a_hidden_unit_only_if_there_is_one(hidden):
    with pytest.raises(OptionValueError, match="ca_fusion_router_hidden"):
        BlockConfig.from_notebook(ca_fusion_router_hidden=hidden)
    BlockConfig.from_notebook(ca_fusion="sum", ca_fusion_router_hidden=hidden)


@pytest.mark.parametrize("name", sorted(ANY_CASE))
def test_words_in_any_case_are_one_config(name):
    for word in RULES[name][1].choices:
        config = BlockConfig.from_notebook(**{name: word.upper()})
        assert config == BlockConfig.from_notebook(**{name: word})


@pytest.mark.parametrize("name", [name for name in STEP2 if kind(name) in (int, float)])
def test_numpy_scalars_are_numbers(name):
    """Stored as Python's own, so that they survive JSON."""
    value = STEP2[name][1]
    made = {int: np.int64, float: np.float64}[kind(name)]
    config = BlockConfig.from_notebook(**companions(name, made(value)))
    part, rule = RULES[name]
    assert type(getattr(getattr(config, part), rule.name)) is kind(name)
    assert config == BlockConfig.from_notebook(**companions(name, value))
    json.dumps(config.to_dict())


def test_an_integer_is_a_fine_float():
    assert BlockConfig.from_notebook(coord_beta=1) == BlockConfig.from_notebook(coord_beta=1.0)
    assert hash(BlockConfig.from_notebook(coord_beta=1)) == hash(
        BlockConfig.from_notebook(coord_beta=1.0)
    )


# --- round trips ----------------------------------------------------------------------------------

CONFIGS = {
    "step1": BlockConfig.step1(),
    "step2": BlockConfig.step2(),
    "odd": BlockConfig.from_notebook(alpha_init=7, coord_beta=-3, ca_gate="SIGMOID", monitor=True),
    "mixture": BlockConfig.step2().replace(beta_ca=None, coord_head_init_std=None),
    "mixture-1": BlockConfig.step1().replace(beta_ca=0.5),
    "no rescue": BlockConfig(rescue=None),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@each_config
def test_round_trips(config):
    again = BlockConfig.from_dict(config.to_dict())
    through_json = BlockConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    through_pickle = pickle.loads(pickle.dumps(config))
    for other in (again, through_json, through_pickle, eval(repr(config))):
        assert other == config
        assert hash(other) == hash(config)
        assert other.step == config.step
    assert len({config, again, through_json, through_pickle}) == 1


def test_configs_differ_from_each_other():
    assert len(set(CONFIGS.values())) == len(CONFIGS)


@each_config
def test_configs_are_frozen(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.channel = ChannelConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.channel.beta = 0.1


@pytest.mark.parametrize("name", ["mixture", "mixture-1", "no rescue"])
def test_the_notebook_cannot_express_a_mixture(name):
    config = CONFIGS[name]
    assert config.step is None
    with pytest.raises(ValueError, match="is mixed"):
        config.to_notebook()
    assert "mixed" in repr(CoordCBAM(8, config))


def test_missing_parts_of_a_dict_are_step2s():
    assert BlockConfig.from_dict({}) == BlockConfig.step2()
    assert BlockConfig.from_dict({"channel": {"beta": 0.5}}) == BlockConfig.from_notebook(
        beta_ca=0.5
    )
    assert BlockConfig.from_dict({"rescue": None}).rescue is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"chanel": {}}, "unknown option 'chanel'; did you mean 'channel'"),
        ({"channel": {"betta": 1.0}}, "unknown option 'betta'; did you mean 'beta'"),
        ({"channel": None}, r"config\['channel'\]=None: expected a mapping"),
        ({"mix": 3}, r"config\['mix'\]=3: expected a mapping"),
        ({"coord": {"beta": "x"}}, r"CoordConfig\.beta='x'"),
        ([], r"config=\[\]: expected a mapping"),
        ("step2", "config='step2': expected a mapping"),
        (None, "config=None: expected a mapping"),
    ],
)
def test_a_wrong_dict_is_refused(values, text):
    with pytest.raises((OptionTypeError, OptionValueError), match=text):
        BlockConfig.from_dict(values)


@pytest.mark.parametrize(
    ("part", "value"),
    [("channel", None), ("channel", CoordConfig()), ("coord", {}), ("mix", "x"), ("rescue", False)],
)
def test_parts_are_of_their_own_class(part, value):
    with pytest.raises(OptionTypeError, match=rf"BlockConfig\.{part}="):
        BlockConfig(**{part: value})


def test_replace_speaks_the_notebooks_names():
    config = BlockConfig.step2().replace(beta_ca=0.5, monitor=True)
    assert (config.channel.beta, config.rescue.monitor) == (0.5, True)
    with pytest.raises(OptionTypeError, match="unknown option 'betta_ca'; did you mean 'beta_ca'"):
        config.replace(betta_ca=1)
    with pytest.raises(OptionTypeError, match="this config has no rescue"):
        BlockConfig.step1().replace(r_min=0.3)


@pytest.mark.parametrize("channels", [0, -1, True, "8", 8.0, None, [8], float("nan")])
def test_channels_are_an_integer_of_one_or_more(channels):
    with pytest.raises(
        (OptionTypeError, OptionValueError), match=r"channels=.*expected an integer >= 1"
    ):
        CoordCBAM(channels)


def test_channels_may_be_numpys():
    assert CoordCBAM(np.int64(8)).channels == 8


@pytest.mark.parametrize("config", ["step2", {}, ChannelConfig(), 2])
def test_config_is_a_block_config(config):
    with pytest.raises(OptionTypeError, match="expected a BlockConfig"):
        CoordCBAM(8, config)


def test_a_width_that_leaves_no_hidden_unit():
    """The notebook builds such a block, with a warning, and its forward cannot run."""
    with pytest.raises(OptionValueError, match=r"min_hidden=-5.*8 channels.*ca_min_hidden"):
        CoordCBAM(8, BlockConfig.from_notebook(ca_min_hidden=-5))
    assert CoordCBAM(32, BlockConfig.from_notebook(ca_min_hidden=-5)).ca.fc1.out_channels == 2
