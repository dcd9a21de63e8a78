"""Who is measured: our block, the notebook's, and the attention of other libraries."""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coordcbam._support.errors import said
from coordcbam.bench.cases import LAYOUTS, Case
from coordcbam.block import BlockConfig, CoordCBAM, deploy
from coordcbam.kernels import chosen, kernel_for, use

OURS = ("coordcbam step3", "coordcbam step2")
NOTEBOOK = "notebook step2"
SE, COORD = "timm se", "timm coord"
# Paths, not imports: each library is optional, and only one file of ours may import Ultralytics.
PEERS = {
    SE: "timm.layers.squeeze_excite:SEModule",
    "timm eca": "timm.layers.eca:EcaModule",
    "timm cbam": "timm.layers.cbam:CbamModule",
    COORD: "timm.layers.coord_attn:CoordAttn",
    "ultralytics cbam": "ultralytics.nn.modules.conv:CBAM",
}
PLAIN = "plain"  # the notebook's arithmetic, one full pass a step
_SHAKE = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A block by name, how to build it for a width, and the kernel that it is to run in."""

    name: str
    build: Callable[[int], nn.Module]
    config: BlockConfig | None = None  # of our block; None for the blocks of others
    kernel: str | None = None
    deploys: bool = False

    def made(self, case: Case, device: torch.device) -> nn.Module:
        """A block for ``case``, none of whose weights is left at a value that flatters."""
        torch.manual_seed(0)
        block = self.build(case.size[1])
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.add_(_SHAKE * torch.randn_like(parameter))
        block = deploy(block) if self.deploys else block
        return block.to(device).to(memory_format=LAYOUTS[case.layout])

    def ran(self, block: nn.Module, x: Tensor) -> str | None:
        """The kernel that attends to ``x``; None for what is not our block."""
        if not isinstance(block, CoordCBAM):
            return None
        with kernel_kept():
            self.choose()
            return kernel_for(x, block.side)[0].name

    def choose(self) -> None:
        """Have our blocks run in this contender's kernel from now on."""
        if self.kernel is not None:
            use(self.kernel)


def with_deployed(among: Iterable[Contender]) -> list[Contender]:
    """Everyone, and behind each block of ours the one that ``deploy`` makes of it."""
    found = []
    for each in among:
        found.append(each)
        if each.config is not None and each.kernel != PLAIN:
            name = f"{each.name} deployed"
            found.append(dataclasses.replace(each, name=name, deploys=True))
    return found


class Skipped(NamedTuple):
    """What cannot be measured here, and why."""

    name: str
    reason: str


def contenders() -> tuple[list[Contender], list[Skipped]]:
    """Everyone who is installed, ours in the kernel of this process; and who is missing."""
    kernel = chosen()
    steps = {name: BlockConfig.preset(name.split()[-1]) for name in (*OURS, NOTEBOOK)}
    found = [
        Contender(
            name=name,
            build=functools.partial(CoordCBAM, config=config),
            config=config,
            kernel=PLAIN if name == NOTEBOOK else kernel,
        )
        for name, config in steps.items()
    ]
    peers = [_peer(name, path) for name, path in PEERS.items()]
    found += [peer for peer in peers if isinstance(peer, Contender)]
    return found, [peer for peer in peers if isinstance(peer, Skipped)]


def _peer(name: str, path: str) -> Contender | Skipped:
    try:
        return Contender(name=name, build=load(path))
    except (ImportError, AttributeError, OSError) as error:
        return Skipped(name, said(error))


def load(path: str) -> Any:
    """What ``"package.module:name"`` names.

    >>> load("json:dumps")([1])
    '[1]'
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def kernel_kept() -> Iterator[None]:
    """Whatever is chosen inside the ``with``, the kernel before it is chosen again after it."""
    before = chosen()
    try:
        yield
    finally:
        use(before)
