"""The whole block as one function of autograd, around any kernel's four passes over x.

It keeps x and its statistics. The backward runs the small nets again, takes their gradient by
autograd, and reads x twice: once for the gradients of the factors, once for its own.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from coordcbam.kernels.energies import sums
from coordcbam.kernels.graph import Graph, differing
from coordcbam.kernels.opened import PASSES, Opened
from coordcbam.kernels.ops import Settled, SideNet
from coordcbam.kernels.passes import Factors, Passes, Statistics
from coordcbam.kernels.side import Maps, attended

SMALL = 12  # times: factors are kept for the backward where x is so much larger


class Looked(NamedTuple):
    """What is known of x before it is scaled."""

    found: Statistics
    maps: Maps
    factors: Factors


class Nets(Protocol):
    """The small nets by a kernel that has them, too."""

    def forward(
        self, x: Tensor, settled: Settled, alpha: Tensor, *, sums: bool, keep: bool
    ) -> tuple[Tensor, Tensor | None, Looked | None]:
        """All of a forward in one call.

        Returns:
            The mix, the sums if they are wanted, and what was looked at if it is to be kept.
        """

    def factors(self, found: Statistics, settled: Settled) -> Factors:
        """The factors alone."""

    def gradients(
        self, found: Statistics, by: Factors, side: SideNet, settled: Settled, tensors: list[Tensor]
    ) -> tuple[Statistics, list[Tensor | None]]:
        """Gradients of the statistics and of the side's tensors, from those of the factors."""


class Fused:
    """A map, nothing of it computed before it is asked for.

    Args:
        x: (B, C, H, W).
        side: the small nets.
        passes: the passes over x.
        nets: the small nets, if the kernel has them.
    """

    eager = True

    def __init__(self, x: Tensor, side: SideNet, passes: Passes, nets: Nets | None = None) -> None:
        self.x = x
        self.side = side
        self.passes = passes
        self.nets = None if side.trains_norm else nets
        self.tensors = side.tensors
        self.settled: Settled | None = None
        self.graph: Graph | None = None
        self.seen: Looked | None = None

    def looked(self) -> tuple[Maps, Factors]:
        """The maps and the factors; the maps with their gradients once the signal is mixed."""
        seen = self.look()
        return seen.maps._replace(temperature=self.side.temperature()), seen.factors

    def mixed(self, alpha: Tensor | None) -> Tensor:
        """The mix, (B, C, H, W); None: the attended signal."""
        return self._run(alpha, measures=False)[0]

    def measured(self, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mix, and the sums."""
        out, found = self._run(alpha, measures=True)
        assert found is not None
        return out, found

    @torch.no_grad()
    def sums(self, *, exact: bool = False) -> Tensor:
        """The sums of x and y, (5, B)."""
        found = self.forward(self.x.new_ones(()), measures=True, keep=True)[1]
        assert found is not None
        if exact and found.dtype != torch.float64:
            attended = self.forward(self.x.new_ones(()), measures=False, keep=True)[0]
            return sums(self.x, attended, exact=True)
        return found

    def _run(self, alpha: Tensor | None, *, measures: bool) -> tuple[Tensor, Tensor | None]:
        alpha = self.x.new_ones(()) if alpha is None else alpha
        if not torch.is_grad_enabled():
            return self.forward(alpha, measures=measures, keep=False)
        inputs = (self.x, alpha, *self.tensors)
        if not any(t.requires_grad for t in inputs):
            with torch.no_grad():
                return self.forward(alpha, measures=measures, keep=False)
        out, found, *maps = _Fused.apply(self, measures, *inputs)
        seen = self.look()
        self.seen = seen._replace(maps=Maps(*_with(seen.maps, maps)))
        return out, found

    def forward(self, alpha: Tensor, *, measures: bool, keep: bool) -> tuple[Tensor, Tensor | None]:
        """The mix without gradients, and the sums if wanted; ``keep``: what was looked at stays."""
        x = self.x
        if self.nets is not None and self.seen is None:
            self.settled = self.side.settled()
            out, found, self.seen = self.nets.forward(
                x, self.settled, alpha, sums=measures, keep=keep
            )
            return out, found
        factors = self.look().factors
        if measures:
            return self.passes.measure(x, factors, self.side.shape, alpha)
        return self.passes.scale(x, factors, self.side.shape, alpha), None

    @torch.no_grad()
    def look(self) -> Looked:
        """What is known of x; looked at once."""
        if self.seen is None:
            found = self.passes.profile(self.x.detach())
            with _precision(self.x, self.tensors):
                if self.side.trains_norm:  # whose running statistics would move again
                    self.graph = Graph.of(self.side, found, self.tensors)
                    maps, factors = self.graph.maps, self.graph.factors
                else:
                    maps, factors = attended(found, self.side.settled().weights)
            self.seen = Looked(found, maps, factors)
        return self.seen


class _Kept(NamedTuple):
    """What a backward needs besides tensors."""

    side: SideNet
    passes: Passes
    graph: Graph | None
    nets: tuple[Nets, Settled] | None

    def once(
        self,
        found: Statistics,
        factors: Factors | None,
        inputs: Sequence[Tensor],
        grad: Tensor | None,
        maps: Sequence[Tensor | None],
        *,
        of_x: bool,
    ) -> list[Tensor | None]:
        """Gradients of the inputs, by the passes."""
        x, alpha, *tensors = inputs
        grad = torch.zeros_like(x) if grad is None else grad
        graph = self.graph
        nets = self.nets if all(m is None for m in maps) else None
        if nets is None:
            graph = graph or Graph.of(self.side, found, tensors)
            factors = Factors(*(t.detach() for t in graph.factors))
        elif factors is None:
            factors = nets[0].factors(found, nets[1])
        shape = self.side.shape
        by_factors, by_alpha = self.passes.factors(grad, x, factors, shape, alpha)
        if nets is not None:
            by_found, by_tensors = nets[0].gradients(found, by_factors, self.side, nets[1], tensors)
        else:
            assert graph is not None
            by_found, by_tensors = graph.gradients(by_factors, maps, tensors)
        dx = None
        if of_x:
            dx = self.passes.input(grad, x, factors, shape, alpha, found, by_found)
        return [dx, by_alpha.to(alpha), *by_tensors]

    def again(
        self,
        inputs: Sequence[Tensor],
        grad: Tensor | None,
        maps: Sequence[Tensor | None],
    ) -> list[Tensor | None]:
        """Gradients of the inputs that have gradients themselves, by the open expression."""
        if self.graph is not None:
            raise RuntimeError(
                "CoordCBAM: a gradient of a gradient through a batch norm that trains; expected "
                "coord_norm='gn' or eval mode"
            )
        x, alpha, *tensors = inputs
        signal = Opened(x, self.side, PASSES, tensors, twice=True)
        outputs = [signal.mixed(alpha), *differing(signal.looked()[0])]
        pairs = [
            (output, by)
            for output, by in zip(outputs, (grad, *maps), strict=True)
            if by is not None and output is not None
        ]
        wanted = [t for t in inputs if t.requires_grad]
        grads = iter(
            torch.autograd.grad(
                [output for output, _ in pairs],
                wanted,
                [by for _, by in pairs],
                create_graph=True,
                allow_unused=True,
            )
        )
        return [next(grads) if t.requires_grad else None for t in inputs]


class _Fused(torch.autograd.Function):
    """``(out, sums or None, *maps)`` of ``(x, alpha, *tensors)``."""

    @staticmethod
    def forward(
        ctx: Any, signal: Fused, measures: Any, x: Tensor, alpha: Tensor, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        out, found = signal.forward(alpha, measures=measures, keep=True)
        seen = signal.look()
        nets = None
        if signal.nets is not None and signal.settled is not None:
            nets = signal.nets, signal.settled
        factors = seen.factors if nets and _are_small(seen.factors, x) else ()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*seen.found, *factors, x, alpha, *tensors)
        ctx.kept = _Kept(signal.side, signal.passes, signal.graph, nets)
        ctx.has_factors = bool(factors)
        ctx.autocast = _autocast(x, tensors)
        if found is not None:
            ctx.mark_non_differentiable(found)
        return out, found, *(t if t is None else t.detach() for t in differing(seen.maps))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None, *maps: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        found, rest = Statistics(*saved[:6]), saved[6:]
        factors, inputs = (Factors(*rest[:3]), rest[3:]) if ctx.has_factors else (None, rest)
        kept: _Kept = ctx.kept
        with _entered(ctx.autocast):
            if torch.is_grad_enabled():
                grads = kept.again(inputs, grad, maps)
            else:
                of_x = ctx.needs_input_grad[2]
                grads = kept.once(found, factors, inputs, grad, maps, of_x=of_x)
        return None, None, *grads


def _are_small(factors: Factors, x: Tensor) -> bool:
    """Whether to keep them costs little beside x; else the backward makes them again."""
    return SMALL * sum(t.numel() for t in factors) <= x.numel()


def _with(maps: Maps, found: Sequence[Tensor | None]) -> tuple[Any, ...]:
    channel, fusion, rows, cols = found
    return channel, fusion, maps.temperature, rows, cols


_Autocast = tuple[str, torch.dtype, bool] | None


def _autocast(x: Tensor, tensors: Sequence[Tensor]) -> _Autocast:
    """Autocast as the nets need it: to bring two dtypes together, and for nothing else."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return None
    enabled = torch.is_autocast_enabled(kind) and tensors[0].dtype != x.dtype
    return kind, torch.get_autocast_dtype(kind), enabled


def _entered(state: _Autocast) -> contextlib.AbstractContextManager[Any]:
    if state is None:
        return contextlib.nullcontext()
    kind, dtype, enabled = state
    return torch.autocast(kind, dtype=dtype, enabled=enabled)


def _precision(x: Tensor, tensors: Sequence[Tensor]) -> contextlib.AbstractContextManager[Any]:
    """Autocast only where it is needed."""
    return _entered(_autocast(x, tensors))
