"""The stress experiment compares like with like, counts honestly and prints what it measured."""

import csv
import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("timm")
pytest.importorskip("sklearn")

from coordcbam import Guard, blocks
from evidence.stress import __main__ as command
from evidence.stress import page, train
from evidence.stress.arms import ARMS, parameters
from evidence.stress.network import Probe, Stack
from evidence.stress.run import run, write
from evidence.stress.statistics import compare, interval, least_p, sign_flip
from evidence.stress.table import PAIRS, arm_rows, document, pair_rows, remarks, signal_rows
from evidence.stress.train import Settings, Trial, digits, trial

TINY = Settings(depth=2, channels=8, steps=2, batch=4)
VERSIONS = {"torch": "2", "timm": "1", "coordcbam": "0"}


def stack(name, seed=0, settings=TINY):
    build = ARMS[name].build
    return Stack(build, channels=settings.channels, depth=settings.depth, seed=seed)


def without_seconds(one):
    return dataclasses.replace(one, cpu_seconds=0.0)


# Statistics, against values computed by hand.


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),
        ([-1.0, -2.0, -3.0], 2 / 8),
        ([3.0, 1.0, -1.0], 6 / 8),  # |3 + 1 + 1| = 5, twice |3 + 1 - 1| = 3, and their mirrors
        ([1.0, 1.0, -1.0], 1.0),
        ([0.1, 0.2, 0.3], 2 / 8),  # 0.1 + 0.2 + 0.3 and its mirror, whatever the rounding
        ([0.3, 0.1, 0.2, -0.6], 1.0),  # a sum of 0, which floats miss
        ([0.0, 0.0], 1.0),
        ([0.5] * 6, 0.03125),
    ],
)
def test_p_is_the_share_of_sign_patterns_that_far_from_0(differences, p):
    assert sign_flip(differences) == p


@pytest.mark.parametrize("seeds", [2, 5, 6, 10])
def test_the_least_p_is_what_seeds_of_one_sign_give(seeds):
    assert sign_flip([1.0 + seed for seed in range(seeds)]) == least_p(seeds)


def test_the_interval_is_that_of_the_resampled_means():
    assert interval([0.25] * 6) == (0.25, 0.25)
    # Of 256 resamples one has mean 1 and twelve 3/4: the 97.5 % quantile is 3/4; 81 have mean 0.
    assert interval([0.0, 0.0, 0.0, 1.0]) == (0.0, 0.75)
    assert interval([0.0, 0.0, 1.0]) == (0.0, 1.0)  # mean 1 in 1 of 27, 3.7 %
    drawn = [0.3, -0.1, 0.2, 0.05, 0.4, 0.0]
    assert interval(drawn) == interval(drawn)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, 0.2, -0.3, 0.1, 0.0, 0.1], "no difference shown"),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.5], "no difference shown"),  # the interval begins at 0
        ([0.1, 0.2, 0.3, 0.1, 0.2, 0.1], "higher"),
        ([-0.1, -0.2, -0.3, -0.1, -0.2, -0.1], "lower"),
        ([0.1, 0.2, 0.3, 0.1, 0.2], "higher, but p > .05"),  # five seeds cannot go below .0625
        ([-0.5, -0.4, -0.5, -0.4, -0.4, 0.02], "lower, but p > .05"),
    ],
)
def test_the_verdict_claims_no_more_than_interval_and_test(differences, verdict):
    assert compare(differences, [0.0] * len(differences)).verdict == verdict


def test_differences_are_paired_by_seed():
    hard_and_easy = [0.1, 0.9, 0.5, 0.3, 0.7, 0.2]
    found = compare([value + 0.01 for value in hard_and_easy], hard_and_easy)
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))
    assert found.p == least_p(6)
    with pytest.raises(ValueError, match="zip"):
        compare([0.1, 0.2], [0.1])


# Arms: what is compared is what is said.

DECLARED = {
    "none": 0,
    "timm cbam": 132,
    "timm coord": 400,
    "SE x2": 280,
    "ReZero coord": 401,
    "control": 1963,
    "step 1": 1960,
    "step 2": 1960,
    "step 3": 1960,
    "guarded cbam": 132,
    "guarded coord": 400,
    "x 0.9": 0,
    "step 2, monitored": 1960,
    "step 3, watched": 1960,
    "closed step 2, monitored": 1960,
    "closed step 3, watched": 1960,
    "closed step 3, rescued": 1960,
}
R_MIN = {
    "guarded cbam": 0.9,
    "guarded coord": 0.9,
    "step 3": None,
    "step 3, watched": None,
    "step 2, monitored": 0.45,
    "closed step 2, monitored": 0.45,
    "closed step 3, watched": None,
    "closed step 3, rescued": 0.8,
}
NEUTRAL = ("none", "ReZero coord", "control", "step 3", "step 3, watched")


def test_every_arm_has_the_parameters_it_is_declared_with():
    assert {name: parameters(arm.build(16)) for name, arm in ARMS.items()} == DECLARED


@pytest.mark.parametrize("channels", [8, 16, 128])
def test_the_control_has_the_parameters_of_step_3(channels):
    ours, control = (parameters(ARMS[name].build(channels)) for name in ("step 3", "control"))
    assert abs(control - ours) <= channels + 1  # half a hidden unit


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_measures_and_acts_as_its_description_says(name):
    measured = [block for _, block in blocks(stack(name)) if block.monitor]
    assert len(measured) == (TINY.depth if name in R_MIN else 0)
    for block in measured:
        rescue = block.rescue if isinstance(block, Guard) else block.config.rescue
        assert rescue.r_min == R_MIN[name]
        assert (rescue.rescue_mode == "watch") == ("watched" in name)


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_block_of_gain_1_starts_as_the_identity_and_can_leave_it(name):
    block, x = ARMS[name].build(8).train(), torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x)
    if name != "none":
        block(x).square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_a_doubled_gate_of_one_half_is_neutral():
    block, x = ARMS["SE x2"].build(8), torch.randn(2, 8, 5, 5)
    nn.init.zeros_(block.se.fc2.weight)
    nn.init.zeros_(block.se.fc2.bias)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", [name for name in ARMS if name.startswith("closed")])
def test_closed_gates_differ_from_open_ones_by_three_biases(name):
    open_name = "step 2" if "step 2" in name else "step 3"
    shut, wide = stack(name).state_dict(), stack(open_name).state_dict()
    differ = {key for key in wide if not torch.equal(shut[key], wide[key])}
    layers = ("ca.fc2", "coord.h_attention_head", "coord.w_attention_head")
    assert differ == {f"blocks.{i}.{layer}.bias" for i in range(TINY.depth) for layer in layers}
    assert all((shut[key] == -3.0).all() for key in differ)


# One seed is one problem, whatever the arm.


def test_all_arms_of_a_seed_start_from_one_backbone():
    def backbone(name, seed):
        state = stack(name, seed).state_dict()
        return {key: value for key, value in state.items() if not key.startswith("blocks.")}

    first = backbone("none", 3)
    assert len(first) == 2 * (TINY.depth + 2)
    for name in ARMS:
        state = backbone(name, 3)
        assert state.keys() == first.keys()
        assert all(torch.equal(state[key], first[key]) for key in first), name
    # And blocks draw from a stream of their own, whatever the backbone has drawn.
    short, long = stack("step 1", 3), stack("step 1", 3, dataclasses.replace(TINY, depth=3))
    assert torch.equal(short.blocks[0].ca.fc1.weight, long.blocks[0].ca.fc1.weight)
    other = backbone("none", 4)
    assert not torch.equal(other["stem.0.weight"], first["stem.0.weight"])


@pytest.fixture
def seen(monkeypatch):
    """The stacks that trials build, and every picture each was given while training."""
    made = []

    class Seen(Stack):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.given = []
            made.append(self)

        def forward(self, x):
            if self.training:
                self.given.append(x)
            return super().forward(x)

    monkeypatch.setattr(train, "Stack", Seen)
    return made


def test_all_arms_of_a_seed_see_the_same_batches(seen):
    for name in ARMS:
        trial(name, 5, TINY)
    trial("none", 6, TINY)
    *same, other = [torch.stack(net.given) for net in seen]
    assert same[0].shape == (TINY.steps, TINY.batch, 1, 8, 8)
    assert all(torch.equal(given, same[0]) for given in same)
    assert not torch.equal(other, same[0])


@pytest.mark.parametrize("name", ["step 3", "closed step 3, rescued", "guarded cbam"])
def test_an_average_moves_once_a_step(seen, name):
    trial(name, 0, dataclasses.replace(TINY, steps=3))
    assert [int(block.updates) for _, block in blocks(seen[0])] == [3, 3]


def test_accuracy_is_that_of_the_evaluated_stack_on_the_test_digits(seen):
    settings = Settings(depth=1, channels=8, steps=40, batch=32)
    one = trial("timm coord", 0, settings)  # its batch norm makes eval another function
    _, _, x, y = digits(settings.test_size)
    right = [(seen[0].train(mode)(x).argmax(dim=1) == y).sum().item() for mode in (False, True)]
    assert one.accuracy == pytest.approx(right[0] / len(y))
    assert right[0] != right[1]


def test_no_digit_is_in_both_halves():
    x, y, x_test, y_test = digits(Settings.test_size)
    assert (len(x), len(x_test), len(x) + len(x_test)) == (1347, 450, 1797)
    assert (x.mean().item(), x.std().item()) == pytest.approx((0.0, 1.0), abs=1e-5)
    train_set = {picture.numpy().tobytes() for picture in x}
    assert not any(picture.numpy().tobytes() in train_set for picture in x_test)
    shares = [torch.bincount(labels, minlength=10) / len(labels) for labels in (y, y_test)]
    torch.testing.assert_close(*shares, atol=0.01, rtol=0.0)


# What one trial measures.


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_probe_finds_known_gains(factor):
    net = Stack(lambda _channels: Times(factor), channels=4, depth=3, seed=0)
    for conv in (net.stem[0], *net.convs):  # a chain of identities, so only blocks change the size
        nn.init.dirac_(conv.weight)
    x = torch.rand(2, 1, 5, 5) + 0.1
    with Probe(net) as probe:
        F.cross_entropy(net(x), torch.tensor([1, 2])).backward()
    assert probe.log_stack_gain == pytest.approx(3 * math.log(factor), abs=1e-5)
    # The stem fills one of four channels; a ReLU lets no gradient through where it is 0.
    share = _gradient_share(net, x)
    assert probe.gradient_gain == pytest.approx(factor**3 * share, rel=1e-4)
    assert not any(module._forward_hooks for module in net.modules())


def _gradient_share(net, x):
    """Norm of the head's gradient on the live channel, over that on all."""
    logits = net(x)
    labels = F.one_hot(torch.tensor([1, 2]), 10)
    gradient = (logits.softmax(dim=1) - labels) @ net.head.weight
    return (gradient[:, 0].norm() / gradient.norm()).item()


def test_a_trial_is_the_same_twice_and_another_with_another_seed():
    one, two = (without_seconds(trial("step 3", 1, TINY)) for _ in range(2))
    assert one == two
    assert one.weights != trial("step 3", 2, TINY).weights


def test_training_lowers_the_loss_and_the_test_digits_are_scored():
    one = trial("none", 0, Settings(depth=1, steps=250))
    assert one.loss < 0.5 * math.log(10)  # that of a stack which knows nothing
    assert one.accuracy > 0.5


@pytest.mark.parametrize(
    ("name", "fired"),
    [
        ("none", None),
        ("step 2", None),
        ("step 3", 0.0),
        ("step 3, watched", 0.0),
        ("closed step 3, watched", 0.0),
        ("guarded cbam", 1.0),
        ("closed step 3, rescued", 0.5),  # its average moves after the first of two steps
    ],
)
def test_steps_in_which_a_rescue_acts_are_counted(name, fired):
    assert trial(name, 0, TINY).fired == fired


def test_equal_weights_have_equal_digests_whatever_is_measured():
    idle, watched = trial("step 3", 0, TINY), trial("step 3, watched", 0, TINY)
    assert (idle.weights, idle.accuracy) == (watched.weights, watched.accuracy)
    assert trial("guarded cbam", 0, TINY).weights != trial("timm cbam", 0, TINY).weights


def test_trials_do_not_depend_on_the_processes():
    names = ["none", "guarded cbam"]
    found = run(names, 2, TINY, jobs=2)
    here = [trial(name, seed, TINY) for seed in range(2) for name in names]
    assert list(map(without_seconds, found)) == list(map(without_seconds, here))
    assert all(one.cpu_seconds > 0 for one in found)


# The table says what the trials came to.


def made_up(arm, seed, accuracy, **changed):
    values = {
        "loss": 1.0,
        "fired": None,
        "gradient_gain": 0.5,
        "log_stack_gain": -2.0,
        "parameters": 7,
        "weights": f"{arm} {seed}",
        "cpu_seconds": 1.0,
    }
    return Trial(arm=arm, seed=seed, accuracy=accuracy, **{**values, **changed})


@pytest.fixture
def trials():
    rows = []
    for seed, base in enumerate([0.8, 0.7, 0.6, 0.9, 0.75, 0.65]):
        rows += [
            made_up("none", seed, base),
            made_up("timm cbam", seed, 0.3 if seed == 5 else 0.1),
            made_up("guarded cbam", seed, base - 0.1, fired=1.0 if seed else 0.4),
            made_up("step 3", seed, base, fired=0.0, weights=f"ours {seed}", gradient_gain=0.25),
            made_up("step 3, watched", seed, base, fired=0.0, weights=f"ours {seed}"),
            made_up("step 2", seed, base + (0.1 if seed % 2 else -0.1), log_stack_gain=2.0),
        ]
    return rows


def by_name(rows):
    return {row[0]: row[1:] for row in rows}


def test_the_tables_show_what_was_measured(trials):
    trials.sort(key=lambda one: -one.seed if one.arm == "none" else one.seed)  # as they come
    made = document(trials, Settings(), VERSIONS)
    arms = by_name(arm_rows(made))
    assert arms["none"] == ("0.733 [0.60, 0.90]", "0/6", "", "", "")
    # 0.3 is not below 0.3
    assert arms["timm cbam"][:2] == ("0.133 [0.10, 0.30]", "5/6")
    assert arms["timm cbam"][2].startswith("-0.600 [-0.7")
    assert arms["timm cbam"][3:] == ("0.031", "lower")
    assert arms["step 2"][2:] == ("+0.000 [-0.067, +0.067]", "1.000", "no difference shown")
    signal = by_name(signal_rows(made))
    assert signal["none"] == ("7", "1.00", "–", "0.5", "2.00")
    assert signal["guarded cbam"] == ("7", "1.00", "90%", "0.5", "2.00")
    assert signal["step 3"] == ("7", "1.00", "0%", "0.25", "2.00")
    assert signal["step 2"][-1] == "2.00"  # the distance from gain 1, on either side


def test_pairs_are_those_whose_arms_ran(trials):
    pairs = by_name(pair_rows(document(trials, Settings(), VERSIONS)))
    assert set(pairs) == {
        "step 3 − step 2",
        "guarded cbam − timm cbam",
        "step 3 − step 3, watched",
    }
    assert pairs["step 3 − step 3, watched"][1:] == (
        "+0.000 [+0.000, +0.000]",
        "1.000",
        "identical",
    )
    assert pairs["guarded cbam − timm cbam"][-1] == "higher"
    assert {name for a, b, _ in PAIRS for name in (a, b)} <= set(ARMS)


@pytest.mark.parametrize("change", [{"weights": "other"}, {"accuracy": 0.1}])
def test_one_seed_that_differs_is_not_identical(trials, change):
    trials = [
        dataclasses.replace(one, **change) if (one.arm, one.seed) == ("step 3", 4) else one
        for one in trials
    ]
    pairs = by_name(pair_rows(document(trials, Settings(), VERSIONS)))
    assert pairs["step 3 − step 3, watched"][-1] == "no difference shown"


@pytest.mark.parametrize(("seeds", "least"), [(2, "0.5"), (6, "0.0312")])
def test_the_remarks_say_how_small_p_can_get_and_how_many_tests_there_are(trials, seeds, least):
    made = document([one for one in trials if one.seed < seeds], Settings(), VERSIONS)
    text = " ".join(remarks(made))
    assert f"With {seeds} seeds p cannot go below {least}," in text
    assert "none of the 8 tests is corrected" in text
    assert "no difference shown" in text


# The command, its files, and the page.


@pytest.fixture
def quick(monkeypatch, trials):
    monkeypatch.setattr(command, "run", lambda names, seeds, settings, jobs: trials)


def test_json_is_the_whole_of_stdout_and_the_file(quick, tmp_path, capsys):
    assert command.main(["--json", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "stress.json").read_text(encoding="utf-8"))
    assert "6 seeds" in err
    assert "36 CPU seconds" in err


def test_without_json_the_tables_are_printed(quick, tmp_path, capsys):
    command.main(["--out", str(tmp_path)])
    out = capsys.readouterr().out
    for words in ("guarded cbam", "5/6", "0.031", "identical"):
        assert words in out


@pytest.mark.parametrize(
    "words", [["--seeds", "1"], ["--seeds", "17"], ["--jobs", "0"], ["--steps", "x"]]
)
def test_bad_usage_is_refused_before_anything_runs(monkeypatch, words, tmp_path, capsys):
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as error:
        command.main([*words, "--out", str(tmp_path)])
    assert error.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seeds", "2"], ["--steps", "3"]])
def test_a_quick_look_cannot_replace_the_published_results(monkeypatch, words, capsys):
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as error:
        command.main(words)
    assert error.value.code == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("published", [True, False])
def test_only_the_published_experiment_rewrites_the_page(quick, monkeypatch, tmp_path, published):
    results, text = tmp_path / "results" / "stress.json", tmp_path / "evidence.md"
    empty = f"before\n{page.BEGIN}{page.END}"
    text.write_text(empty, encoding="utf-8")
    monkeypatch.setattr(page, "RESULTS", results)
    monkeypatch.setattr(page, "PAGE", text)
    assert command.main([] if published else ["--out", str(tmp_path / "other")]) == 0
    assert results.exists() == published
    made = json.loads((results if published else tmp_path / "other/stress.json").read_text())
    assert text.read_text(encoding="utf-8") == (page.filled(empty, made) if published else empty)


def read_trials(path):
    """The trials of a stress.csv, and what else stands in its first row."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {
        field.name: (int if field.type is int else str if field.type is str else float)
        for field in dataclasses.fields(Trial)
    }
    found = [
        Trial(**{k: kind(row[k]) if row[k] else None for k, kind in kinds.items()}) for row in rows
    ]
    return found, {key: value for key, value in rows[0].items() if key not in kinds}


def test_the_csv_keeps_every_digit_and_says_what_made_it(trials, tmp_path):
    settings = Settings(steps=7)
    trials[0] = dataclasses.replace(trials[0], accuracy=1 / 3, fired=0.1 + 0.2)
    made = document(trials, settings, VERSIONS)
    table, _ = write(tmp_path / "new", trials, settings, made)
    found, rest = read_trials(table)
    assert found == trials
    assert rest == {k: str(v) for k, v in {**dataclasses.asdict(settings), **VERSIONS}.items()}
    assert document(found, settings, VERSIONS) == made


def test_the_results_are_those_of_the_full_experiment():
    made = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    trials, rest = read_trials(page.RESULTS.with_suffix(".csv"))
    assert made["settings"] == dataclasses.asdict(Settings())
    assert {(one.arm, one.seed) for one in trials} == {(a, s) for a in ARMS for s in range(6)}
    assert len(trials) == 6 * len(ARMS)
    shared = {**made["settings"], **made["versions"]}
    assert rest == {key: str(value) for key, value in shared.items()}
    again = document(trials, Settings(), made["versions"])
    for kind, rows in (("arms", arm_rows), ("signal", signal_rows), ("pairs", pair_rows)):
        assert rows(made) == rows(again), kind


def test_the_page_shows_the_results():
    text = page.PAGE.read_text(encoding="utf-8")
    made = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert page.filled(text, made) == text
    for row in (*arm_rows(made), *pair_rows(made)):
        assert " | ".join(row) in text


def test_filling_changes_only_what_lies_between_the_markers(trials):
    made = document(trials, Settings(), VERSIONS)
    empty = f"before\n{page.BEGIN}old\n{page.END}after\n"
    once = page.filled(empty, made)
    assert once.startswith(f"before\n{page.BEGIN}")
    assert once.endswith(f"{page.END}after\n")
    assert "old" not in once
    assert page.filled(once, made) == once
    for broken in ("no markers", page.BEGIN, page.END + page.BEGIN):
        with pytest.raises(ValueError, match="markers"):
            page.filled(broken, made)
