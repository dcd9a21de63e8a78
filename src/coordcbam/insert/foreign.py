"""Blocks that are not ours, by a word: ``timm:cbam`` or ``package.module:Class``."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from coordcbam._support.errors import UsageError, nearest, said, shown
from coordcbam._support.permanent import permanent
from coordcbam.block.guard import Guard

# (name, channels, options) to a block, by the word before the colon; hosts add their own.
Source: TypeAlias = Callable[[str, int, Mapping[str, Any]], nn.Module]
SOURCES: dict[str, Source] = {}

# Names to suggest: timm has more, and no list of them.
_OF_TIMM = ("se", "ese", "eca", "ecam", "ceca", "ge", "gc", "gca", "cbam", "lcbam", "coord")
_PROBE = 8  # pixels of the map that tells whether a block preserves shapes


@permanent
class ForeignBlock(nn.Module):
    """``inner(x)`` behind a layer; bypassed, x itself.

    Args:
        inner: a block whose output has its input's shape, perhaps in a ``Guard``.
        copies: give it a copy of the map, for it writes over what it is given.

    ``forward`` takes and returns (B, C, H, W).
    """

    bypassed = False
    copies = False

    def __init__(self, inner: nn.Module, *, copies: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.copies = copies

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return x if self.bypassed else self.inner(x.clone() if self.copies else x)

    def after(self, inputs: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG002
        """What a layer gives to which the block was attached."""
        attended: Tensor = self(output)
        return attended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign:
    """Which block, with which options, guarded or not."""

    word: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    r_min: float | None = None

    def build(self, channels: int) -> ForeignBlock:
        """The block for maps of this width.

        Raises:
            UsageError: a word that names no block, options that it refuses, or a block that does
                not preserve shapes.
        """
        inner = _made(self.word, channels, self.options)
        copies = _overwrites(inner, channels, self.word)
        guarded = inner if self.r_min is None else Guard(inner, self.r_min)
        return ForeignBlock(guarded, copies=copies)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.word, "options": dict(self.options), "r_min": self.r_min}

    @classmethod
    def from_dict(cls, values: Any) -> "Foreign":
        """The inverse of :meth:`to_dict`.

        Raises:
            UsageError: something else.
        """
        known = ("name", "options", "r_min")
        if not isinstance(values, Mapping) or not set(values) <= set(known):
            raise UsageError(f"block={shown(values)}: expected a mapping of {', '.join(known)}")
        return cls.of(values.get("name"), values.get("options") or {}, values.get("r_min"))

    @classmethod
    def of(
        cls, block: Any, options: Mapping[str, Any] | None = None, r_min: float | None = None
    ) -> "Foreign":
        """Of a word, or of a class that can be imported by its name.

        >>> Foreign.of(nn.Identity).word
        'torch.nn.modules.linear:Identity'
        """
        word = f"{block.__module__}:{block.__qualname__}" if isinstance(block, type) else block
        parts = word.replace(":", ".").split(".") if isinstance(word, str) else [""]
        if not all(parts) or word.count(":") != 1 or "<locals>" in parts:
            raise UsageError(
                f"block={shown(block)}: expected 'timm:NAME', 'ultralytics:NAME', "
                "'package.module:Class', or a class at the top level of a module"
            )
        if options is not None and not isinstance(options, Mapping):
            raise UsageError(f"options={shown(options)}: expected a mapping for {word}")
        return cls(word=word, options=dict(options or {}), r_min=r_min)


def _made(word: str, channels: int, options: Mapping[str, Any]) -> nn.Module:
    source, name = word.split(":")
    try:
        if source in SOURCES:
            made = SOURCES[source](name, channels, options)
        else:
            made = _imported(source, name)(channels, **options)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"block {word!r} for {channels} channels cannot be made: {said(error)}"
        ) from None
    if not isinstance(made, nn.Module):
        raise UsageError(f"block {word!r} is a {type(made).__name__}: expected an nn.Module")
    return made


def _imported(path: str, name: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise UsageError(
            f"no module {path!r} ({error}): expected {', '.join(sorted(SOURCES))}, or a module "
            "that Python can import here"
        ) from None
    found: Any = module
    for part in name.split("."):  # a class in a class, too
        names = [key for key, value in vars(found).items() if isinstance(value, type)]
        found = getattr(found, part, None)
        if not callable(found):
            raise UsageError(f"no class {name!r} in {path}: nearest are {nearest(part, names)}")
    made: Callable[..., Any] = found
    return made


@torch.no_grad()
def _overwrites(inner: nn.Module, channels: int, word: str) -> bool:
    """Whether the block writes over its input, found on a map of noise.

    Raises:
        UsageError: a block that does not run or does not preserve shapes.
    """
    noise = torch.Generator().manual_seed(0)  # its own: a user's seed must give the same weights
    training, x = inner.training, torch.randn(1, channels, _PROBE, _PROBE, generator=noise)
    given = x.clone()
    try:
        y = inner.eval()(given)
    except Exception as error:
        raise UsageError(
            f"block {word!r} does not run on {tuple(x.shape)}: {said(error)}"
        ) from None
    finally:
        inner.train(training)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise UsageError(f"block {word!r} makes {got} of {tuple(x.shape)}: expected the same shape")
    return not torch.equal(given, x)


def _of_timm(name: str, channels: int, options: Mapping[str, Any]) -> nn.Module:
    try:
        layers = importlib.import_module("timm.layers")
    except ImportError:
        raise UsageError(f"block 'timm:{name}' needs timm: pip install timm") from None
    try:
        layers.get_attn(name)
    except (AssertionError, NameError):  # the latter where Python leaves assertions out
        raise UsageError(f"no block 'timm:{name}': nearest are {nearest(name, _OF_TIMM)}") from None
    made: nn.Module = layers.create_attn(name, channels, **options)
    return made


SOURCES["timm"] = _of_timm
