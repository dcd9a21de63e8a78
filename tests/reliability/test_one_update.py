"""However a training goes about it, an optimizer step moves each average once, by the same mean.

And a pass that is computed again is the same function, so that its gradients are the plain ones.
"""

import functools
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import coordcbam as cc
from _support.shaken import shaken, step3

X = torch.randn(8, 4, 9, 9, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(1))


class Network(nn.Module):
    """A stem, then blocks and a guard whose outputs fall short of their inputs."""

    def __init__(self, dropout):
        super().__init__()
        weak = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Dropout(dropout))
        self.stem = nn.Conv2d(4, 8, 3)
        self.body = nn.Sequential(half_shut(), cc.Guard(weak), nn.SiLU(), half_shut())

    def forward(self, x):
        return self.body(self.stem(x))


def half_shut():
    block = shaken(step3(), 0.6)
    for last in (block.ca.fc2, block.coord.h_attention_head, block.coord.w_attention_head):
        nn.init.constant_(last.bias, -2.0)
    return block


def network(*, known=True, dropout=0.0):
    """The same network each time; where its averages are known, every rescue in it acts."""
    torch.manual_seed(0)
    model = Network(dropout)
    if known:
        model(OTHER)
        cc.commit_(model)
        assert all(b.alpha_eff() < 0.99 * b.alpha(OTHER) for _, b in cc.blocks(model))
    return model


def learn(forward, *batches):
    """Gradients of the mean loss over all of X, batch by batch."""
    for x in batches:
        (forward(x).float().square().flatten(1).mean(dim=1).sum() / len(X)).backward()


class Step:
    """What came of one step, begun by ``take(model)`` and closed by a commit."""

    def __init__(self, take, **options):
        model = network(**options)
        blocks = [block for _, block in cc.blocks(model)]
        before = [block.updates.item() for block in blocks]
        torch.manual_seed(1)  # of dropout
        take(model)
        cc.commit_(model)
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.gradient = torch.cat(grads)
        self.averages = torch.stack([block.r_ema for block in blocks])
        self.updates = {b.updates.item() - n for b, n in zip(blocks, before, strict=True)}
        self.skipped = {block.skipped.item() for block in blocks}


def off(one, other):
    """The relative difference of two vectors."""
    return ((one - other).norm() / other.norm()).item()


# --- what may happen in a step --------------------------------------------------------------------


def interrupted(context):
    """Four micro-batches, each followed by a pass in ``context(model)`` that learns nothing."""

    def take(model):
        for x in X.chunk(4):
            learn(model, x)
            with context(model):
                model(OTHER)

    return take


def validated(model):
    """A validation between two micro-batches, once without gradients and once with."""
    learn(model, X[:4])
    model.eval()
    for context in (torch.no_grad(), nullcontext()):
        with context:
            model(OTHER)
    model.train()
    learn(model, X[4:])


STEPS = {
    "two micro-batches": lambda m: learn(m, *X.chunk(2)),
    "four micro-batches": lambda m: learn(m, *X.chunk(4)),
    "unequal micro-batches": lambda m: learn(m, *X.split([1, 5, 2])),
    "the batch twice": lambda m: learn(m, X, X),
    "passes without gradients": interrupted(lambda m: torch.no_grad()),
    "passes in inference mode": interrupted(lambda m: torch.inference_mode()),
    "passes with the blocks off": interrupted(cc.bypass),
    "a validation": validated,
    "compiled": lambda m: learn(torch.compile(m, backend="aot_eager"), *X.chunk(2)),
}


def test_a_step_is_one_update_whatever_happens_in_it(figure):
    plain = Step(lambda m: learn(m, X))
    steps = {name: Step(take) for name, take in STEPS.items()}
    assert not [name for name, step in steps.items() if step.updates != {1} or step.skipped != {0}]
    errors = {name: off(step.averages, plain.averages) for name, step in steps.items()}
    assert not [name for name, error in errors.items() if not error <= 1e-6]
    figure("updates per optimizer step", f"1 in each of {len(steps)} ways", "1")
    figure("average against one batch", f"off by at most {max(errors.values()):.1e}", "1e-6")


# --- activation checkpointing ---------------------------------------------------------------------


def plainly(part, x):
    return part(x)


def again(part, x, *, reentrant):
    return checkpoint(part, x, use_reentrant=reentrant)


def one_by_one(run, layers, x):
    return functools.reduce(lambda h, layer: run(layer, h), layers, x)


# How a network is called, where ``run(part, x)`` either calls a part or checkpoints it.
FORMS = {
    "the body": lambda m, run, x: run(m.body, m.stem(x)),
    "every layer": lambda m, run, x: one_by_one(run, m.body, m.stem(x)),
    "in each other": lambda m, run, x: run(
        lambda h: run(lambda g: run(m.body[3], m.body[1:3](g)), m.body[0](h)), m.stem(x)
    ),
    "a block used three times": lambda m, run, x: run(
        lambda h: m.body(m.body[0](m.body[0](h))), m.stem(x)
    ),
    "every use of a guard": lambda m, run, x: one_by_one(
        run, [m.body[1], m.body[1], *m.body], m.stem(x)
    ),
}


def in_segments(model, reentrant):
    return lambda x: checkpoint_sequential(model.body, 3, model.stem(x), use_reentrant=reentrant)


def formed(form, run, batches=(X,)):
    """A step in which the network is called in that form."""
    return lambda model: learn(lambda x: form(model, run, x), *batches)


def compiled(run):
    """A step of the compiled network, its body checkpointed inside."""

    def take(model):
        form = functools.partial(FORMS["the body"], model, run)
        learn(torch.compile(form, backend="aot_eager"), X)

    return take


def narrow(take):
    """The step under autocast, whose casts have to come again with the pass."""

    def under(model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            take(model)

    return under


def pairs(reentrant):
    """By name, a plain and a checkpointed step that have to agree, and the network's options."""
    run = functools.partial(again, reentrant=reentrant)
    body, four = FORMS["the body"], X.chunk(4)
    plain = formed(body, plainly)
    return {
        **{name: (formed(form, plainly), formed(form, run), {}) for name, form in FORMS.items()},
        "in segments": (plain, lambda m: learn(in_segments(m, reentrant), X), {}),
        "four micro-batches": (formed(body, plainly, four), formed(body, run, four), {}),
        "autocast": (narrow(plain), narrow(formed(body, run)), {}),
        "compiled": (plain, compiled(run), {}),
        "dropout": (plain, formed(body, run), {"dropout": 0.3}),
        "before the first commit": (plain, formed(body, run), {"known": False}),
        "in each other, before it": (plain, formed(FORMS["in each other"], run), {"known": False}),
    }


@pytest.mark.long
# Of torch, about a checkpoint in another one's first pass, which is without gradients.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_computed_again_changes_nothing(reentrant, figure):
    found = {
        name: (Step(plain, **options), Step(checkpointed, **options))
        for name, (plain, checkpointed, options) in pairs(reentrant).items()
    }
    assert not [
        name
        for name, steps in found.items()
        if any(step.updates != {1} or step.skipped != {0} for step in steps)
    ]
    averages = {name: off(two.averages, one.averages) for name, (one, two) in found.items()}
    gradients = {name: off(two.gradient, one.gradient) for name, (one, two) in found.items()}
    assert not {name: error for name, error in averages.items() if not error <= 1e-6}
    assert not {name: error for name, error in gradients.items() if not error <= 1e-6}
    mode = "reentrant" if reentrant else "not reentrant"
    figure(
        f"checkpointing gradient error, {mode}",
        f"{max(gradients.values()):.1e} in {len(found)} forms, one update each",
        "1e-6, 1 update",
    )


# --- optimizers -----------------------------------------------------------------------------------


def closure(model, optimizer, seen):
    """The loss at the present weights, for an optimizer that asks for it several times."""

    def evaluate():
        optimizer.zero_grad()
        loss = (model(X) - 1.0).square().mean()
        loss.backward()
        seen.append(loss.item())
        return loss

    return evaluate


def test_a_line_search_is_one_update_and_compares_one_function():
    model, seen = network(), []
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=6, line_search_fn="strong_wolfe")
    ask = closure(model, optimizer, seen)
    ask()
    again = ask().item()
    assert again == seen[0]  # asking moves nothing
    cc.commit_on_step(optimizer, model)
    for step in range(1, 3):
        asked = len(seen)
        optimizer.step(ask)
        assert len(seen) - asked > 3
        assert {block.updates.item() for _, block in cc.blocks(model)} == {1 + step}
    assert seen[-1] < seen[0]


def test_several_steps_of_optimizers_are_one_update_if_the_loop_commits_once():
    model = network()
    halves = [torch.optim.SGD(part.parameters(), lr=1e-4) for part in (model.stem, model.body)]
    for _ in range(2):
        learn(model, X)
        for optimizer in halves:
            optimizer.step()
    cc.commit_(model)
    assert {block.updates.item() for _, block in cc.blocks(model)} == {2}


def test_two_optimizers_that_both_commit_move_the_average_once():
    model = network()
    for part in (model.stem, model.body):
        optimizer = torch.optim.SGD(part.parameters(), lr=1e-4)
        cc.commit_on_step(optimizer, model)
        part.optimizer = optimizer
    learn(model, X)
    after_first = []
    for part in (model.stem, model.body):
        part.optimizer.step()
        after_first.append([block.r_ema.item() for _, block in cc.blocks(model)])
    assert after_first[0] == after_first[1]
    counts = {(block.updates.item(), block.skipped.item()) for _, block in cc.blocks(model)}
    assert counts == {(2, 0)}  # a commit of nothing is neither an update nor a fault
