"""What a block makes of the signal and of the gradient at its place, and of the model's outputs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coordcbam._support.errors import UsageError
from coordcbam.kernels.energies import sums
from coordcbam.preflight.trial import BlockError, Trial, as_it_trains, called, tensors_of

QUIET = 1e-2  # of the map's own level: a quotient of smaller inputs would be rounding


class Gain(NamedTuple):
    """Of one place; ``x`` goes into the block and ``y`` comes out.

    ``std`` is the mean over samples of std(y) over that of std(x); ``rms`` the mean of
    ``|y| / |x|``, and ``kept`` the mean of ``<x, y> / <x, x>``. ``low`` and ``high`` are the ends
    of ``y / x`` over all elements that are not quiet.
    """

    std: float
    rms: float
    kept: float
    low: float
    high: float


class Heard(NamedTuple):
    """The gain at each place, by path, and the model's outputs, batch by batch."""

    gains: dict[str, Gain]
    outputs: list[list[Tensor]]


class Gradients(NamedTuple):
    """Norms of the gradient of a fixed random projection of the outputs.

    Of each place, by path: what leaves the block backwards, what enters it, and the norm of ``x``;
    and of the model's input.
    """

    places: dict[str, tuple[float, float, float]]
    input: float


def heard(trial: Trial, batches: Sequence[Any]) -> Heard:
    """One forward a batch, in eval mode and without gradients; it seeds as ``gradients`` does."""
    found: dict[str, list[Tensor]] = {path: [] for path in trial.blocks}
    ends: dict[str, list[Tensor]] = {path: [] for path in trial.blocks}

    def note(path: str, x: Tensor, y: Tensor) -> None:
        found[path].append(torch.cat([sums(x, y, exact=True), _size(x)]))
        ends[path].append(_ends(x, y))

    handles = _listening(trial, note)
    torch.manual_seed(0)  # see ``gradients``
    try:
        with torch.no_grad():
            found_of = (trial.outputs(called(trial.model, batch)) for batch in batches)
            made = [tensors_of(each) for each in found_of]
            outputs = [[out.clone() for out in each] for each in made]
    finally:
        for handle in handles:
            handle.remove()
    deaf = next((path for path, each in found.items() if not each), None)
    if deaf is not None:
        raise UsageError(
            f"the block behind {deaf!r} is not called: expected a place that every forward passes; "
            "of what torch.compile made, give the module itself"
        )
    gains = {path: _gain(torch.cat(found[path], dim=1), ends[path]) for path in trial.blocks}
    return Heard(gains, outputs)


def drift(outputs: Sequence[Sequence[Tensor]], before: Sequence[Sequence[Tensor]]) -> float:
    """``|out - before| / |before|``, the mean over the model's output tensors.

    A mean, so that an output in pixels does not drown one in probabilities. What was infinite
    before is left out, such as a logit of what cannot be; where nothing is left, NaN.

    Raises:
        UsageError: outputs of other shapes, which have no difference.

    >>> drift([[torch.tensor([3.0, 4.0])]], [[torch.tensor([3.0, 0.0])]])
    1.3333333333333333
    """
    for now, then in zip(outputs, before, strict=True):
        _comparable([out.shape for out in now], [out.shape for out in then])
    columns = zip(zip(*outputs, strict=True), zip(*before, strict=True), strict=True)
    found = []
    for now, then in columns:
        kept = [_where_finite(*pair) for pair in zip(now, then, strict=True)]
        apart = sum(float((a - b).square().sum()) for a, b in kept)
        whole = sum(float(b.square().sum()) for _, b in kept)
        if any(b.numel() for _, b in kept):
            found.append((apart / whole) ** 0.5 if whole else float(apart > 0.0))
    return sum(found) / len(found) if found else math.nan


def _where_finite(now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, where ``before`` is finite."""
    finite = before.isfinite()
    if not finite.all():
        now, before = now[finite], before[finite]
    return now.double(), before.double()


def check_comparable(outputs: Sequence[Sequence[Tensor]], *, alone: bool) -> None:
    """Raise where nothing could be said of a change of these outputs.

    Args:
        outputs: of the model without blocks, batch by batch.
        alone: whether nothing else, such as a score, tells of a change.

    Raises:
        UsageError: outputs that are NaN, or none where they alone tell.
    """
    tensors = [out for each in outputs for out in each]
    if any(out.isnan().any() for out in tensors):
        raise UsageError(
            "the model's outputs without blocks are NaN: expected finite ones; look at its weights "
            "and at the batches"
        )
    if alone and not any(out.isfinite().any() for out in tensors):
        raise UsageError(
            "the model returns no floating tensor with a number in it: expected outputs that can "
            "be compared; return tensors, in tuples, lists or mappings, or give a score"
        )


def _comparable(now: list[torch.Size], then: list[torch.Size]) -> None:
    """Raise unless there are as many outputs as before, of the same shapes."""
    if now != then:
        first = next((i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b), None)
        told = f"{len(now)} tensors and not {len(then)}"
        if first is not None:
            told = f"{tuple(now[first])} and not {tuple(then[first])}"
        raise UsageError(
            f"with blocks the model returns {told}: its outputs cannot be compared; give a model "
            "that returns its maps before anything is picked from them"
        )


def gradients(trial: Trial, batch: Any) -> Gradients | None:
    """One forward and backward as in training; None where the model has no gradient.

    It seeds the generators; the caller keeps their states.
    """
    as_it_trains(trial.model)
    places: dict[str, dict[str, Tensor]] = {path: {} for path in trial.blocks}

    def add(path: str, name: str, tensor: Tensor) -> None:
        before = places[path].get(name)  # of another call of the same layer
        norm = tensor.detach().norm()
        places[path][name] = norm if before is None else torch.hypot(before, norm)

    def note(path: str, x: Tensor, y: Tensor) -> None:
        add(path, "level", x)
        for name, tensor in (("x", x), ("y", y)):
            told: Any = lambda grad, name=name: add(path, name, grad)  # noqa: E731
            if tensor.requires_grad:  # not in a model that forbids it
                tensor.register_hook(told)  # type: ignore[no-untyped-call]

    handles = _listening(trial, note)
    leaves, inputs = _leaves(batch)
    torch.manual_seed(0)  # whatever drops or draws does it with a block as without
    try:
        with torch.enable_grad():
            _projected(trial.outputs(called(trial.model, inputs))).backward()  # type: ignore[no-untyped-call]
    except BlockError:
        raise
    except Exception:  # an output without a gradient, an operation, or a model that wants targets
        return None
    finally:
        for handle in handles:
            handle.remove()
        trial.model.eval().zero_grad(set_to_none=True)
    grads = [leaf.grad.norm() for leaf in leaves if leaf.grad is not None]
    if not grads or any(len(each) < 3 for each in places.values()):
        return None
    norms = {
        path: (float(each["x"]), float(each["y"]), float(each["level"]))
        for path, each in places.items()
    }
    return Gradients(norms, float(torch.stack(grads).norm()))


def _listening(trial: Trial, note: Callable[[str, Tensor, Tensor], None]) -> list[Any]:
    """Hooks that tell ``note`` what goes into each block and comes out of it."""

    def hook(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, args, out: note(path, args[0], out)

    return [block.register_forward_hook(hook(path)) for path, block in trial.blocks.items()]


def _leaves(batch: Any) -> tuple[list[Tensor], Any]:
    """Floating inputs that want a gradient, and what to call the model with: not leaves."""
    leaves = []

    def leaf(value: Any) -> Any:
        if isinstance(value, (tuple, list)) and type(value) in {tuple, list}:
            return type(value)(map(leaf, value))
        if isinstance(value, dict):
            return {key: leaf(each) for key, each in value.items()}
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1].clone()  # so that a layer may work in place

    return leaves, leaf(batch)


def _projected(found: Any) -> Tensor:
    """The scalar product of the outputs with normal weights, the same for one shape."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for out in tensors_of(found):
        if out.requires_grad:
            weights = torch.randn(out.shape, generator=generator).to(out)
            total = total.to(out.device) + (weights * out).sum().float()
    return total


def _size(x: Tensor) -> Tensor:
    return x.new_full((1, x.shape[0]), float(x.shape[1:].numel()), dtype=torch.float64)


def _ends(x: Tensor, y: Tensor) -> Tensor:
    """The smallest and the largest ``y / x``, (2,); of a silent map infinite the wrong way."""
    x, y = x.double(), y.double()
    loud = ~(x.abs() <= QUIET * x.square().mean().sqrt())  # NaN is no silence
    quotients = (y / x)[loud]
    return torch.stack(torch.aminmax(quotients)) if len(quotients) else x.new_tensor([1.0, 1.0])


def _gain(found: Tensor, ends: Sequence[Tensor]) -> Gain:
    """Of the sums of all samples, (6, samples), those without a signal left out."""
    xx, xy, yy, x, y, size = found[:, found[0] != 0.0].double()
    if not len(xx):
        return Gain(1.0, 1.0, 1.0, 1.0, 1.0)
    deviations = [
        (square / size - (total / size).square()).clamp(min=0.0).sqrt().mean()
        for square, total in ((xx, x), (yy, y))
    ]
    low, high = torch.stack(list(ends)).unbind(dim=1)
    return Gain(
        std=float(deviations[1] / deviations[0]) if deviations[0] else 1.0,
        rms=float((yy / xx).sqrt().mean()),
        kept=float((xy / xx).mean()),
        low=float(low.min()),
        high=float(high.max()),
    )
