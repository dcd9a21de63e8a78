"""Known blocks give known numbers, the model is untouched, and nonsense is refused."""

import copy
import dataclasses
import math
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import coordcbam as cc
from _support.known_blocks import Drawn, Half, Lifted, Lost, Narrow, Pointwise, Small
from coordcbam._support.errors import UsageError
from coordcbam.insert.plan import PlaceError
from coordcbam.preflight import Figure, Preflight, preflight

AT = ("0", "3")


def size_of(batches: list[torch.Tensor]) -> Any:
    """A score that is 1 for the outputs as they were, and their share where all were scaled."""

    def score(model: nn.Module) -> float:
        assert not model.training
        return float(model(batches[0]).detach().norm()) / whole

    whole = 1.0

    def first(model: nn.Module) -> Any:
        nonlocal whole
        whole = score(model.eval())
        return score

    return first


@pytest.fixture
def score(model: nn.Sequential, batches: list[torch.Tensor]) -> Any:
    return size_of(batches)(copy.deepcopy(model))


def near(figure: Figure | None, value: float) -> bool:
    assert figure is not None
    return [figure.mean, figure.low, figure.high] == pytest.approx([value] * 3, rel=1e-4)


def test_a_half_at_two_places(model: nn.Sequential, batches: list[Any], score: Any) -> None:
    found = preflight(model, batches, at=AT, blocks=[Half], score=score, seeds=2)
    (row,) = found.rows
    assert [place.path for place in row.places] == ["0", "3"]
    for place in row.places:
        assert near(place.std_ratio, 0.5)
        assert near(place.rms_ratio, 0.5)
        assert near(place.kept, 0.5)
        assert near(place.gradient_gain, 0.5)
    assert near(row.gradient_input, 0.25)
    assert near(row.drift, 0.75)
    assert near(row.score, 0.25)
    assert near(row.shock, -0.75)
    assert (row.gain_min, row.gain_max, row.certified) == (0.5, 0.5, False)
    assert row.harms
    assert row.parameters == 4 + 6
    assert row.flops == 0
    assert row.elementwise == 64 * (4 + 6)  # a product an element; its parameter is fewer
    # x is kept for the weight's gradient, besides what the next layer keeps of the output.
    assert row.memory_bytes == 64 * (4 + 6) * 4
    assert found.without["score"] == pytest.approx(1.0)
    assert "The block harms this model" in found.verdict
    assert "1.000 to 0.250 (-75.0 %)" in found.verdict


def test_a_convolution_has_known_operations(model: nn.Sequential, batches: list[Any]) -> None:
    found = preflight(model, batches, at=AT, blocks=[Pointwise], seeds=1)
    (row,) = found.rows
    assert row.parameters == 4 * 4 + 6 * 6
    assert row.flops == 2 * 64 * (4 * 4 + 6 * 6)
    assert row.elementwise == 0
    assert found.without["flops"] == 2 * 64 * (3 * 4 + 4 * 6 + 6 * 2)
    assert found.without["parameters"] == 3 * 4 + 4 * 6 + 6 * 2
    alone = {place.path: place for place in found.ranking}
    assert alone["3"].flops == 2 * 64 * 6 * 6
    assert alone["3"].parameters == 36


def test_step3_is_measured_to_change_nothing(
    model: nn.Sequential, batches: list[Any], score: Any
) -> None:
    scored = []

    def counted(network: nn.Module) -> float:
        scored.append(sum(p.numel() for p in network.parameters()))
        return float(score(network))

    found = preflight(model, batches, at=AT, blocks="none,step3", score=counted, seeds=3)
    none, step3 = found.rows
    for row in (none, step3):
        assert row.shock == Figure(mean=0.0, low=0.0, high=0.0)
        assert row.drift == Figure(mean=0.0, low=0.0, high=0.0)
        assert not row.harms
    assert none.parameters == none.flops == none.elementwise == none.memory_bytes == 0
    assert step3.places[0].std_ratio.mean == pytest.approx(1.0, abs=1e-6)
    # Without blocks, with none, with three seeds, and at each place alone.
    assert len(scored) == 1 + 1 + 3 + 2
    assert sorted(scored)[2:] == sorted([scored[2]] * 3 + scored[5:])
    assert found.verdict.endswith("Not a bit of the outputs changes: step3.")


def test_each_seed_draws_anew_and_the_same_next_time(
    model: nn.Sequential, batches: list[Any]
) -> None:
    drawn = [float(torch.manual_seed(seed) and torch.rand(())) for seed in range(3)]
    first, again = (
        preflight(model, batches, at="3", blocks=[Drawn], seeds=3).rows[0] for _ in range(2)
    )
    kept = first.places[0].kept
    assert kept == again.places[0].kept
    assert kept.mean == pytest.approx(sum(drawn) / 3)
    assert (kept.low, kept.high) == pytest.approx((min(drawn), max(drawn)))


def test_of_ours_the_gain_is_certified(model: nn.Sequential, batches: list[Any]) -> None:
    config = cc.BlockConfig.step2()
    (row,) = preflight(model, batches, at="3", blocks=[config], seeds=1).rows
    sure = cc.certify(config)
    assert (row.block, row.certified) == ("step2", True)
    assert (row.gain_min, row.gain_max) == (sure.gain_min, sure.gain_max)
    assert sure.gain_min <= row.places[0].kept.mean <= sure.gain_max


def test_the_place_that_is_harmed_most_comes_first(
    model: nn.Sequential, batches: list[Any], score: Any
) -> None:
    for use in (score, None):
        found = preflight(model, batches, at=AT[::-1], blocks=[Narrow], score=use, seeds=1)
        assert [(row.rank, row.path) for row in found.ranking] == [(1, "0"), (2, "3")]
        assert [row.drift for row in found.ranking] == [1.0, 0.0]
        assert [row.layer for row in found.ranking] == ["Conv2d", "Conv2d"]
    assert found.ranking[0].shock is None


def test_an_offset_changes_the_level_and_not_the_deviation(
    model: nn.Sequential, batches: list[Any]
) -> None:
    (row,) = preflight(model, batches, at="0", blocks=[Lifted], seeds=1).rows
    assert near(row.places[0].std_ratio, 1.0)
    assert row.places[0].rms_ratio.mean > 2.0


def test_a_score_that_stays_is_no_harm(model: nn.Sequential, batches: list[Any]) -> None:
    (row,) = preflight(model, batches, at="0", blocks=[Half], score=lambda _: 0.5, seeds=1).rows
    assert near(row.drift, 0.5)
    assert not row.harms


def test_a_layer_that_works_in_place_has_a_gradient(batches: list[Any]) -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1))
    (row,) = preflight(model, batches, at="1", blocks=[Half], seeds=1).rows
    assert near(row.gradient_input, 0.5)


def test_a_gradient_share_by_hand() -> None:
    # Behind x of norm 1: 3 x, of gradient 2 w; then 6 x, of gradient w. Both say 6.
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1, bias=False) for _ in range(2)), nn.Identity())
    for layer, factor in zip(model, (3.0, 2.0), strict=False):
        nn.init.constant_(layer.weight, factor)
    found = preflight(model, torch.ones(1, 1, 1, 1), at=["0", "1"], blocks="none")
    assert [row.gradient_share for row in found.ranking] == pytest.approx([0.5, 0.5])


def test_gradient_shares_are_of_one(model: nn.Sequential, batches: list[Any]) -> None:
    found = preflight(model, batches, at=AT, blocks="none")
    shares = [row.gradient_share for row in found.ranking]
    assert sum(share or 0.0 for share in shares) == pytest.approx(1.0)
    assert found.verdict == "No block was tried."


def test_outputs_that_do_not_hear_a_block_are_told(
    model: nn.Sequential, batches: list[Any]
) -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * self.net(x)

    deaf = preflight(Deaf(), batches, at="net.0", blocks=["none", Half], seeds=1)
    assert deaf.notes[-1].startswith("the outputs do not depend on what ")
    assert deaf.notes[-1].endswith(":Half changes: is the model trained?")
    assert not preflight(model, batches, at="0", blocks=["none", "step3"], seeds=1).notes


def test_the_model_and_all_dice_are_as_before(model: nn.Sequential, batches: list[Any]) -> None:
    model.train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    given = [batch.clone() for batch in batches]
    dice = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    def spoils(network: nn.Module) -> float:
        network.train()(torch.rand(2, 3, 8, 8))
        random.random()
        np.random.rand()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        return 1.0

    preflight(model, batches, at=AT, blocks=["none", "step2", Half], score=spoils, seeds=2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(model.state_dict()) == list(before)
    assert [module.training for module in model.modules()] == modes
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert all(p.grad is None for p in model.parameters())
    assert all(map(torch.equal, batches, given))
    assert torch.equal(torch.get_rng_state(), dice[0])
    assert random.getstate() == dice[1]
    assert np.array_equal(np.random.get_state()[1], dice[2])


def test_behind_a_block_that_is_there(model: nn.Sequential, batches: list[Any]) -> None:
    cc.insert_(model, "3", inputs=batches[0], block=Half)
    found = preflight(model, batches, at=AT, blocks=[Half], seeds=1)
    assert found.notes == ("3 has a block already: the one on trial comes after it",)
    assert near(found.rows[0].places[1].std_ratio, 0.5)
    assert near(found.rows[0].drift, 0.75)
    assert found.without["parameters"] == 3 * 4 + 4 * 6 + 6 * 2 + 6


def test_several_arguments_and_outputs(batches: list[Any]) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1, bias=False)

        def forward(self, x: torch.Tensor, factor: int) -> dict[str, Any]:
            return {"maps": [self.conv(x)], "count": factor, "x": x * factor}

    inputs = [(batch, 2) for batch in batches]
    found = preflight(Both(), inputs, at="conv", blocks=[Half], seeds=1)
    assert near(found.rows[0].drift, 0.25)  # a half of one output, nothing of the other
    assert found.about["batches"] == [[2, 3, 8, 8], [3, 3, 8, 8]]


def test_without_a_gradient_nothing_is_said_of_it(batches: list[Any]) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).detach()

    found = preflight(Cut(), batches, at="conv", blocks=[Half], seeds=1)
    assert found.rows[0].gradient_input is None
    assert found.rows[0].places[0].gradient_gain is None
    assert "no gradient" in found.notes[-1]
    assert "nan" not in str(found.to_dict())


def test_a_model_that_scores_nothing_is_read_by_its_drift(
    model: nn.Sequential, batches: list[Any]
) -> None:
    found = preflight(model, batches, at=AT, blocks=[Half], score=lambda _: 0.0, seeds=1)
    assert found.rows[0].harms
    assert "moves the outputs by 75.0 %" in found.verdict
    assert found.notes[-1].startswith("the model scores 0 as it is")


def test_a_little_score_is_chance_and_outputs_decide(
    model: nn.Sequential, batches: list[Any]
) -> None:
    scores = iter([0.009, 0.001] * 9)
    found = preflight(
        model, batches, at="0", blocks=["step3"], score=lambda _: next(scores), seeds=1
    )
    assert not found.rows[0].harms  # not a bit of the outputs changed
    assert found.notes[-1].startswith("the model scores 0.009 as it is, of which any change may")
    assert found.without["score_tells"] is False
    better = preflight(
        model,
        batches,
        at="0",
        blocks=[Half],
        score=lambda m: 0.5 + 0.2 * float(len(m[0]._forward_hooks) > 0),
        seeds=1,
    )
    assert "Not harmful: " in better.verdict
    assert better.without["score_tells"] is True


def test_progress_counts_to_the_end(model: nn.Sequential, batches: list[Any]) -> None:
    told: list[tuple[int, int, str]] = []
    preflight(
        model,
        batches,
        at=AT,
        blocks=["none", Half],
        seeds=2,
        progress=lambda *words: told.append(words),
    )
    # None once and its price; a half twice and its price; a half at each place.
    assert [done for done, _, _ in told] == list(range(2 + 3 + 2 + 1))
    assert {total for _, total, _ in told} == {7}
    assert told[-1][2] == "done"


def test_it_is_public_under_its_name() -> None:
    import coordcbam.preflight

    assert cc.preflight is preflight
    assert coordcbam.preflight is preflight
    assert cc.Preflight is Preflight


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"model": 3}, UsageError, "model=3"),
        ({"batches": []}, UsageError, "batches"),
        ({"batches": 3}, UsageError, "batches=3"),
        ({"at": "9"}, PlaceError, "'9'"),
        ({"seeds": 0}, UsageError, "seeds=0"),
        ({"seeds": True}, UsageError, "seeds=True"),
        ({"blocks": "step4"}, UsageError, "no block 'step4': nearest are 'step"),
        ({"blocks": "timm:no_such"}, UsageError, "timm:no_such"),
        ({"blocks": ""}, UsageError, "names none"),
        ({"blocks": 3}, UsageError, "blocks=3"),
    ],
)
def test_what_cannot_be_is_one_line(
    model: nn.Sequential, batches: list[Any], changed: dict[str, Any], error: type, words: str
) -> None:
    given = {"model": model, "batches": batches, "at": "0", "blocks": "none", **changed}
    with pytest.raises(error) as raised:
        preflight(given.pop("model"), given.pop("batches"), **given)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


class _Odd(nn.Module):
    """A convolution at ``conv``, and then what ``end`` makes of its map."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 1), end

    def forward(self, x: torch.Tensor) -> Any:
        return self.end(self, self.conv(x))


def _no_targets(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    assert not module.training, "targets should not be none when in training mode"
    return x


def test_a_model_that_only_runs_in_eval_has_no_gradient(batches: list[Any]) -> None:
    found = preflight(_Odd(_no_targets), batches, at="conv", blocks=[Half], seeds=1)
    assert found.notes == ("the model has no gradient: nothing is said of it",)
    (row,) = found.rows
    assert (row.gradient_input, row.memory_bytes, row.places[0].gradient_gain) == (None,) * 3
    assert near(row.drift, 0.5)


def test_outputs_of_other_shapes_are_said_to_be() -> None:
    for end in (lambda _, x: x[x > 0.5], lambda _, x: [x] * (1 + int(x.abs().max() > 0.5))):
        model = _Odd(end)
        with torch.no_grad():
            model.conv.weight.fill_(1.0)
            model.conv.bias.zero_()  # type: ignore[union-attr]
        with pytest.raises(UsageError, match="its outputs cannot be compared") as raised:
            preflight(model, [torch.full((1, 3, 8, 8), 0.3)], at="conv", blocks=[Half], seeds=1)
        assert "\n" not in str(raised.value)


@dataclasses.dataclass
class _Held:
    boxes: torch.Tensor


@pytest.mark.parametrize(
    ("end", "score", "told"),
    [
        (lambda _, x: x.argmax(1), None, "no floating tensor with a number"),
        (lambda _, x: x[:0], None, "no floating tensor with a number"),
        (lambda _, x: object(), lambda _: 0.01, "no floating tensor with a number"),
        (lambda _, x: x / 0.0 * 0.0, None, "outputs without blocks are NaN"),
        (lambda _, x: x, lambda _: math.nan, "without blocks scores nan"),
        (lambda _, x: x, lambda _: -math.inf, "without blocks scores -inf"),
    ],
)
def test_a_model_with_nothing_to_compare_gets_no_all_clear(
    end: Any, score: Any, told: str, batches: list[Any]
) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        preflight(_Odd(end), batches, at="conv", blocks="none,step2", score=score, seeds=1)
    assert "\n" not in str(raised.value)


def test_a_score_speaks_for_outputs_that_cannot_be_compared(batches: list[Any]) -> None:
    scores = iter([0.5, 0.3] * 9)
    found = preflight(
        _Odd(lambda _, x: x.argmax(1)),
        batches,
        at="conv",
        blocks=[Half],
        score=lambda _: next(scores),
        seeds=1,
    )
    (row,) = found.rows
    assert (row.harms, math.isnan(row.drift.mean)) == (True, True)
    assert "0.500 to 0.300 (-40.0 %)" in found.verdict


def test_outputs_in_a_dataclass_are_compared_and_what_was_infinite_is_not(
    batches: list[Any],
) -> None:
    def end(_: nn.Module, x: torch.Tensor) -> _Held:
        return _Held(torch.cat([x, torch.full_like(x, -math.inf)], dim=1))

    found = preflight(_Odd(end), batches, at="conv", blocks=[Half], seeds=1)
    assert near(found.rows[0].drift, 0.5)


def test_a_block_of_nan_is_nan_everywhere_after_it(batches: list[Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    found = preflight(model, batches, at="*", blocks=[Lost], seeds=1)
    (row,) = found.rows
    assert row.harms
    assert "makes outputs that are not finite" in found.verdict
    assert all(math.isnan(place.std_ratio.mean) for place in row.places)
    assert all(math.isnan(place.kept.mean) for place in row.places)
    assert math.isnan(row.gain_min)


def test_only_what_is_picked_is_compared(batches: list[Any]) -> None:
    found = preflight(
        _Odd(lambda _, x: {"feats": x, "boxes": x.detach() * 0 + 1}),
        batches,
        at="conv",
        blocks=[Half],
        outputs=lambda found: found["boxes"],
        seeds=1,
    )
    assert found.rows[0].drift.mean == 0.0
    with pytest.raises(UsageError, match="outputs=3: expected a function"):
        preflight(nn.Conv2d(3, 4, 1), batches, at="", outputs=3)  # type: ignore[arg-type]


def test_images_in_a_list_are_samples() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
            out: torch.Tensor = self.conv(torch.stack(images))
            return out

    def of(count: int) -> Any:
        images = [torch.rand(3, 8, 8) for _ in range(count)]
        return preflight(Listed(), [(images,)], at="conv", blocks=[Half], seeds=1)

    one, four = of(1), of(4)
    assert one.without["flops"] == four.without["flops"]
    assert near(four.rows[0].gradient_input, 0.5)


def test_a_layer_that_is_called_twice_has_the_gradient_of_both(batches: list[Any]) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.conv(x) + 0.5 * self.conv(2.0 * x)
            return out

    found = preflight(Shared(), batches, at="conv", blocks=[Half], seeds=1)
    assert near(found.rows[0].places[0].gradient_gain, 0.5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_compile_made_is_told(batches: list[Any]) -> None:
    compiled = torch.compile(nn.Sequential(nn.Conv2d(3, 4, 1)), backend="eager")
    compiled(batches[0])
    with pytest.raises(
        UsageError, match=r"'_orig_mod\.0' is not called: .* give the module itself"
    ):
        preflight(compiled, batches, at="_orig_mod.0", blocks=[Half], seeds=1)


@pytest.mark.parametrize(
    "end",
    [
        lambda module, x: nn.functional.dropout(x, 0.5, training=module.training),
        lambda module, x: nn.functional.rrelu(x, training=module.training),
        lambda _, x: x + torch.rand_like(x) * x,
    ],
)
def test_whatever_draws_draws_the_same_with_a_block(end: Any, batches: list[Any]) -> None:
    found = preflight(_Odd(end), batches, at="conv", blocks="none,step3", seeds=2)
    for row in found.rows:
        assert near(row.gradient_input, 1.0)
        assert row.drift.high == 0.0


def test_a_block_that_fails_is_named_with_its_place(
    model: nn.Sequential, batches: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as raised:
        preflight(model, batches, at=AT, blocks=[Small], seeds=1)
    told = "block '_support.known_blocks:Small' at '3' does not run on (2, 6, 8, 8): no room for"
    assert str(raised.value) == f"{told} this map"
    some = ("none", "_support.known_blocks:Small", "step3")
    monkeypatch.setattr(sys.modules[preflight.__module__], "BLOCKS", some)
    coming: list[tuple[int, int, str]] = []
    found = preflight(
        model, batches, at=AT, blocks=some, seeds=1, progress=lambda *words: coming.append(words)
    )
    assert [row.block for row in found.rows] == found.about["blocks"] == ["none", "step3"]
    # None and its price, one that fails, step 3 and its price, and at each place.
    assert [done for done, _, _ in coming] == list(range(2 + 1 + 2 + 2 + 1))
    assert [total for _, total, _ in coming] == [2 + 2 + 2 + 2 + 2] * 3 + [2 + 1 + 2 + 2] * 5
    assert found.notes == (f"skipped {some[1]}: {told} this map",)
    scores = iter([1.0, 1.0, "bad"])  # a score that fails is no block that does not fit
    with pytest.raises(UsageError, match="score"):
        preflight(model, batches, at=AT, blocks=some, seeds=1, score=lambda _: next(scores))  # type: ignore[return-value,arg-type]


@pytest.mark.parametrize(
    "score",
    [3, "a", lambda _: None, lambda _: "1", lambda _: torch.ones(2), lambda _: np.ones(2)],
)
def test_a_score_is_a_number_of_a_model(
    model: nn.Sequential, batches: list[Any], score: Any
) -> None:
    with pytest.raises(UsageError, match=r"^score") as raised:
        preflight(model, batches, at="0", blocks="none", score=score, seeds=1)
    assert "\n" not in str(raised.value)


def test_a_score_may_change_its_network(model: nn.Sequential, batches: list[Any]) -> None:
    def spoiling(network: nn.Module) -> float:
        for name, _ in list(network.named_children()):
            setattr(network, name, nn.Identity())
        return 1.0

    plain = preflight(model, batches, at=AT, blocks=[Pointwise], seeds=1)
    found = preflight(model, batches, at=AT, blocks=[Pointwise], score=spoiling, seeds=1)
    assert found.without["flops"] == plain.without["flops"]
    assert found.rows[0].flops == plain.rows[0].flops
    flops = {row.path: row.flops for row in plain.ranking}
    assert {row.path: row.flops for row in found.ranking} == flops
