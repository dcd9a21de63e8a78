"""Model files with blocks as rows: rows inserted, references renumbered, written for people.

What trips up such files is settled here: a list of sources holds absolute indices only (RT-DETR
reads a -1 in it as nothing), a block reads its own source's width (``"ch", "f"``), and the file
keeps one scale, whatever its name says.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from coordcbam._support.errors import UsageError

ROW = "CoordCBAMLayer"  # by this name Ultralytics knows the class
PARTS = ("backbone", "head")
# Of a network that was built, not of its file.
_BUILT = ("yaml_file", "scale", "ch")


def with_rows(
    recipe: Mapping[str, Any],
    places: Sequence[int],
    options: Mapping[str, Any],
    *,
    redirect: bool = True,
) -> tuple[dict[str, Any], dict[int, int]]:
    """The recipe with a block after each place, and where each of its layers is now.

    Args:
        recipe: what a network was built from: ``backbone``, ``head`` and the rest.
        places: indices of layers, ascending.
        options: of :class:`CoordCBAMLayer`.
        redirect: whether all who read a place now read its block; otherwise the row behind it does,
            if that read it, and nobody else.

    Raises:
        UsageError: a block that nobody would read.

    >>> recipe = {"backbone": [[-1, 1, "A", []], [-1, 1, "B", []]], "head": [[[-1, 0], 1, "C", []]]}
    >>> new, index_of = with_rows(recipe, [0], {})
    >>> [row[0] for part in ("backbone", "head") for row in new[part]], index_of
    ([-1, -1, -1, [2, 1]], {0: 0, 1: 2, 2: 3})
    """
    rows = [*recipe["backbone"], *recipe["head"]]
    index_of = {old: old + sum(place < old for place in places) for old in range(len(rows))}
    new: dict[str, Any] = {
        key: copy.deepcopy(value)
        for key, value in recipe.items()
        if key not in _BUILT and key not in PARTS
    }
    _keep_one_scale(new, recipe.get("scale"))
    new |= {part: [] for part in PARTS}

    def read(source: int, *, by: int) -> int:
        behind = redirect or (source == by - 1)
        reads = behind and source in places
        unread.discard(source if reads else -1)
        return index_of[source] + reads

    unread = set(places)
    for old, (source, *rest) in enumerate(rows):
        part = new["backbone" if old < len(recipe["backbone"]) else "head"]
        part.append([_renumbered(source, old, index_of, read), *copy.deepcopy(rest)])
        if old in places:
            part.append([-1, 1, ROW, ["ch", "f", dict(options)]])
    if unread:
        raise UsageError(
            f"nobody would read the block behind layer {min(unread)}: no row behind it does; leave "
            "out --no-redirect there"
        )
    return new, index_of


def _renumbered(
    source: Any, old: int, index_of: Mapping[int, int], read: Callable[..., int]
) -> Any:
    """A row's sources by their new numbers; one that is the row just before is -1."""
    if isinstance(source, (list, tuple)):
        return [read(s if s >= 0 else old + s, by=old) for s in source]
    if old == 0:
        return source  # the picture
    found = read(source if source >= 0 else old + source, by=old)
    return -1 if found == index_of[old] - 1 else found


def _keep_one_scale(recipe: dict[str, Any], scale: str | None) -> None:
    if recipe.get("scales") and scale:
        recipe["scales"] = {scale: recipe["scales"][scale]}


def text_of(recipe: Mapping[str, Any], remark: str) -> str:
    """A model file: one line a row.

    >>> print(text_of({"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3]]], "head": []}, "Made here."))
    # Made here.
    nc: 2
    backbone:
      - [-1, 1, Conv, [8, 3]]
    head: []
    <BLANKLINE>
    """
    lines = [f"# {remark}"]
    lines += [_dumped({key: value})[1:-1] for key, value in recipe.items() if key not in PARTS]
    for part in PARTS:
        rows = recipe[part]
        lines.append(f"{part}:" if rows else f"{part}: []")
        lines += [f"  - {_dumped(row)}" for row in rows]
    return "\n".join(lines) + "\n"


def _dumped(value: Any) -> str:
    """On one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True
    )
    return text.rstrip()
