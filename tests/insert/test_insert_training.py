"""What a training loop calls: commits, parameter groups, averaged copies; 2 processes as one."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import coordcbam as cc
from _support.shaken import closed, shaken, step3
from coordcbam.insert import scalars

X = torch.randn(6, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def test_commit_reaches_every_block_of_ours_and_no_other():
    model = nn.Sequential(step3(), cc.CoordCBAM(8, cc.BlockConfig.step2()), cc.Guard(nn.Tanh()))
    model.train()
    for _, block in cc.blocks(model):
        block.monitor = True
    model(X)
    before = model[1].r_ema.clone()
    cc.commit_(model)
    assert model[0].updates == model[2].updates == 1
    assert torch.equal(model[1].r_ema, before)  # the notebook's moved in its forward
    cc.commit_(model)
    assert model[0].updates == 1  # nothing new was tallied
    cc.commit_(nn.Linear(2, 2))


def test_commit_reaches_a_block_inside_a_guard_and_one_met_twice_once():
    inner = step3()
    guard = cc.Guard(inner)
    model = nn.Sequential(guard, guard).train()
    for _, block in cc.blocks(model):
        block.monitor = True
    model(X)
    cc.commit_(model)
    assert model[0].updates == inner.updates == 1


def test_an_optimizer_commits_by_itself_until_told_otherwise():
    model = nn.Sequential(step3())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = cc.commit_on_step(optimizer, model)
    for _ in range(2):
        for _ in range(3):
            model(X).sum().backward()
        optimizer.step()
    assert model[0].updates == 2
    handle.remove()
    model(X)
    optimizer.step()
    assert model[0].updates == 2


def test_groups_hold_each_parameter_once_and_spare_scalars_norms_and_biases():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        step3(learnable_alpha=True, learnable_temperature=True),
        cc.Guard(nn.Conv2d(8, 8, 1)),
    )
    decayed, spared = cc.parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    ids = [id(p) for group in (decayed, spared) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    spared_names = {names[id(p)] for p in spared["params"]}
    ours = {"2.alpha_raw", "2.ca.t_logit", "2.coord.alpha_h_raw", "2.coord.alpha_w_raw"}
    assert ours | {"0.bias", "1.weight", "1.bias", "3.inner.bias"} <= spared_names
    assert {names[id(p)] for p in scalars(model)} == ours


def test_decay_does_not_move_a_strength():
    model = nn.Sequential(step3())
    optimizer = torch.optim.SGD(cc.parameter_groups(model, 0.5), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model[0].coord.alpha_h_raw, before["0.coord.alpha_h_raw"])
    assert not torch.equal(model[0].ca.fc1.weight, before["0.ca.fc1.weight"])


def test_an_averaged_copy_gets_the_live_numbers():
    model = nn.Sequential(closed(step3()), cc.Guard(nn.Tanh())).train()
    averaged = AveragedModel(model, multi_avg_fn=lambda old, new, _: None)
    model(X)
    cc.commit_(model)
    assert averaged.module[0].r_ema == 1.0
    cc.copy_monitor_state_(model, averaged)
    for live, mean in zip(
        (model[0], model[1]), (averaged.module[0], averaged.module[1]), strict=True
    ):
        assert torch.equal(live.r_ema, mean.r_ema)
        assert live.updates == mean.updates == 1
    assert torch.equal(averaged.module[0].eval()(X), model[0].eval()(X))
    cc.copy_monitor_state_(nn.Linear(1, 1), averaged)  # nothing to copy is no error


def test_the_monitor_commits_unless_told_otherwise(tmp_path):
    for commits in (True, False):
        model = nn.Sequential(shaken(step3()))
        with cc.Monitor(model, tmp_path / str(commits), every=2, commits=commits) as monitor:
            for _ in range(3):
                model(X)
                monitor.step()
        assert model[0].updates == (3 if commits else 0)


@pytest.mark.parametrize("commits", [1, None])
def test_monitor_commits_is_a_bool(commits, tmp_path):
    with pytest.raises(ValueError, match=r"Monitor\.commits"):
        cc.Monitor(nn.Sequential(step3()), tmp_path, commits=commits)


def test_a_guarded_blocks_own_scalars_are_not_ours():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.tensor(1.0))  # free to decay as its author meant

        def forward(self, x):
            return self.gamma * x

    assert scalars(nn.Sequential(cc.Guard(Scaled()))) == []
