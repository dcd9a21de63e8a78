"""Who takes part: ours in the kernel of the process, the notebook's in its own, peers if present."""

import pytest
import torch
from torch import nn

from coordcbam import kernels
from coordcbam.bench import Case, Contender, contenders
from coordcbam.bench.peers import NOTEBOOK, OURS, PEERS, kernel_kept, load, with_deployed
from coordcbam.block import CoordCBAM


@pytest.fixture(autouse=True)
def _kernel() -> "object":
    before = kernels.chosen()
    yield
    kernels.use(before)


def test_ours_follow_the_process_and_the_notebook_does_not() -> None:
    kernels.use("algebra")
    found = {each.name: each for each in contenders()[0]}
    assert [found[name].kernel for name in (*OURS, NOTEBOOK)] == ["algebra", "algebra", "plain"]
    assert [found[name].config.name for name in (*OURS, NOTEBOOK)] == ["step3", "step2", "step2"]
    assert all(found[name].config is None for name in found if name in PEERS)


def test_everyone_is_found_or_skipped_with_a_reason() -> None:
    found, missing = contenders()
    names = [each.name for each in found] + [each.name for each in missing]
    assert sorted(names) == sorted((*OURS, NOTEBOOK, *PEERS))
    assert all(each.reason for each in missing)


def test_missing_peers_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {
        "absent": "package_of_another_world.layers:Attention",
        "too old": "torch.nn:AttentionOfAnotherWorld",
        "here": "torch.nn:Identity",
    }
    monkeypatch.setattr("coordcbam.bench.peers.PEERS", paths)
    found, missing = contenders()
    assert [each.name for each in found][3:] == ["here"]
    assert [each.name for each in missing] == ["absent", "too old"]
    assert "package_of_another_world" in missing[0].reason
    assert "AttentionOfAnotherWorld" in missing[1].reason


def test_a_peer_keeps_the_shape(case: Case, cpu: torch.device) -> None:
    x = Case(size=(2, 16, 6, 5)).maps(cpu)
    for each in contenders()[0]:
        block = each.made(Case(size=(2, 16, 6, 5)), cpu)
        assert block(x).shape == x.shape, each.name
        assert each.ran(block, x) is None or isinstance(block, CoordCBAM)


def test_a_made_block_is_no_identity_and_always_the_same(
    few: list[Contender], case: Case, cpu: torch.device
) -> None:
    step3 = Contender(name="coordcbam step3", build=CoordCBAM)
    one, other = (step3.made(case, cpu).eval() for _ in range(2))
    x = case.maps(cpu)
    assert torch.equal(one(x), other(x))
    assert not torch.allclose(one(x), x)
    assert all(parameter.any() for parameter in one.parameters())


def test_a_made_block_has_the_layout_of_its_case(cpu: torch.device) -> None:
    conv = Contender(name="conv", build=lambda channels: nn.Conv2d(channels, 4, 3))
    for layout, is_last in (("NCHW", False), ("channels_last", True)):
        weight = conv.made(Case(size=(1, 8, 6, 6), layout=layout), cpu).weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == is_last


def test_which_kernel_ran(few: list[Contender], case: Case, cpu: torch.device) -> None:
    before, x = kernels.chosen(), case.maps(cpu)
    assert [each.ran(each.made(case, cpu), x) for each in few] == ["algebra", "plain", None]
    assert kernels.chosen() == before


def test_the_kernel_is_kept() -> None:
    before = kernels.chosen()
    with pytest.raises(KeyError), kernel_kept():
        kernels.use("plain")
        raise KeyError
    assert kernels.chosen() == before != "plain"


def test_deployed_ones_stand_behind_ours(
    few: list[Contender], case: Case, cpu: torch.device
) -> None:
    found = with_deployed(few)
    assert [each.name for each in found] == [
        "coordcbam step2",
        "coordcbam step2 deployed",
        "notebook step2",
        "timm se",
    ]
    block, deployed = (each.made(case, cpu).eval() for each in found[:2])
    assert type(deployed) is not type(block)
    torch.testing.assert_close(deployed(case.maps(cpu)), block(case.maps(cpu)), atol=1e-5, rtol=0)


def test_load_says_what_is_missing() -> None:
    assert load("torch.nn:Conv2d") is nn.Conv2d
    with pytest.raises(AttributeError):
        load("torch.nn:Conv9d")
