"""Which blocks are tried: none, ours by a preset or a config, and others by their words."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import nn

from coordcbam._support.errors import UsageError, nearest, shown
from coordcbam.block import PRESETS, BlockConfig
from coordcbam.insert import Foreign

NONE = "none"
BLOCKS = (NONE, *PRESETS, "timm:cbam", "timm:se", "ultralytics:CBAM")
_WIDTH = 8  # of the map on which a block is tried before anything is measured

Block: TypeAlias = str | type[nn.Module] | BlockConfig | Foreign


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A block by its name in the tables, and what it is made of; None is an ``nn.Identity``."""

    name: str
    what: BlockConfig | Foreign | None


def candidates(blocks: str | Iterable[Block]) -> tuple[list[Candidate], list[str]]:
    """The blocks of these names, each once, and a note for each that cannot be made here.

    Only of the default choice something may be missing: who names a block wants it.

    Raises:
        UsageError: no block of that name, one that cannot be made, or none at all.

    >>> [each.name for each in candidates("none, step3")[0]]
    ['none', 'step3']
    """
    words = words_of(blocks)
    found: dict[str, Candidate] = {}
    notes = []
    for word in words:
        try:
            one = _candidate(word)
            if isinstance(one.what, Foreign):
                one.what.build(_WIDTH)
        except UsageError as error:
            if tuple(words) != BLOCKS:
                raise
            notes.append(f"skipped {word}: {error}")
            continue
        found.setdefault(one.name, one)
    if not found:
        raise UsageError(f"blocks={shown(blocks)} names none: expected {nearest('', BLOCKS)}")
    return list(found.values()), notes


def words_of(blocks: str | Iterable[Block]) -> list[Block]:
    """The blocks one by one.

    Raises:
        UsageError: neither words nor several of them.

    >>> words_of("none, step3")
    ['none', 'step3']
    """
    words: Any = blocks.replace(",", " ").split() if isinstance(blocks, str) else blocks
    if not isinstance(words, Iterable):
        raise UsageError(f"blocks={shown(blocks)}: expected words such as {', '.join(BLOCKS[:5])}")
    return list(words)


def _candidate(word: Any) -> Candidate:
    if isinstance(word, BlockConfig):
        return Candidate(name=word.name, what=word)
    if isinstance(word, Foreign):
        guarded = "" if word.r_min is None else f" guarded {word.r_min:g}"
        return Candidate(name=f"{word.word}{guarded}", what=word)
    if word == NONE:
        return Candidate(name=NONE, what=None)
    if isinstance(word, str) and word in PRESETS:
        return Candidate(name=word, what=BlockConfig.preset(word))
    if isinstance(word, str) and ":" not in word:
        raise UsageError(
            f"no block {word!r}: nearest are {nearest(word, BLOCKS)}; others are timm:NAME, "
            "ultralytics:NAME and package.module:Class"
        )
    made = Foreign.of(word)
    return Candidate(name=made.word, what=made)
