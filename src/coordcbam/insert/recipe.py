"""What was attached, as plain data: for a checkpoint, and for hosts that rebuild their networks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from coordcbam._support.errors import UsageError, shown
from coordcbam._support.wake import wake_hosts
from coordcbam.insert.attach import has_block
from coordcbam.insert.plan import PlaceError

SPEC_VERSION = 1
FOREIGN_VERSION = 2  # of a spec with a block that is not ours: who reads 1 would take it for ours
# Some hosts rebuild a network from a recipe they keep on it (``module.yaml``, a dict): what was
# attached is noted there, under this key, as a list of specs.
RECIPE_KEY = "coordcbam"


def note(model: nn.Module, spec: Mapping[str, Any]) -> None:
    """Add ``spec`` to every recipe in ``model`` that it concerns."""
    wake_hosts()
    for stem, recipe in _recipes(model):
        places = [
            {**place, "path": place["path"].removeprefix(stem)}
            for place in spec["places"]
            if place["path"].startswith(stem)
        ]
        recipe[RECIPE_KEY] = [*recipe.get(RECIPE_KEY, ()), {**spec, "places": places}]


def forget(model: nn.Module) -> None:
    """Take our entry out of every recipe in ``model``."""
    for _, recipe in _recipes(model):
        recipe.pop(RECIPE_KEY, None)


def checked_places(model: nn.Module, spec: Mapping[str, Any]) -> list[tuple[Any, nn.Module]]:
    """The places of a stored spec with their layers in ``model``.

    Raises:
        UsageError: a spec of another version.
        PlaceError: a layer that is not there, or that has a block.
    """
    if spec.get("version") != (FOREIGN_VERSION if "block" in spec else SPEC_VERSION):
        found = shown(spec.get("version"))
        raise UsageError(
            f"insertion spec version {found}: this coordcbam reads {SPEC_VERSION}, and "
            f"{FOREIGN_VERSION} with a 'block'; "
            "use the coordcbam that wrote it, or a newer one"
        )
    places = spec.get("places")
    if isinstance(places, (str, Mapping)) or not isinstance(places, Iterable):
        raise UsageError(f"spec['places']={shown(places)}: expected a list of places")
    checked: list[tuple[Any, nn.Module]] = []
    for place in places:
        if not isinstance(place, Mapping) or not isinstance(place.get("path"), str):
            raise UsageError(f"spec['places'] has {shown(place)}: expected a mapping with a 'path'")
        path = place["path"]
        try:
            layer = model.get_submodule(path)
        except AttributeError:
            raise PlaceError(f"no layer {path!r} in {type(model).__name__}") from None
        if has_block(layer):
            raise PlaceError(f"{path} has a block already: remove_(model) takes it out")
        if any(layer is other for _, other in checked):
            raise PlaceError(f"spec['places'] has {path!r} twice: a layer can carry one block")
        checked.append((place, layer))
    return checked


def lost_places(model: nn.Module) -> list[str]:
    """The layers that a recipe in ``model`` gives a block, and that have none."""
    here = {path for path, module in model.named_modules() if has_block(module)}
    wanted = [
        stem + place["path"]
        for stem, recipe in _recipes(model)
        for spec in recipe.get(RECIPE_KEY, ())
        for place in spec["places"]
    ]
    return [path for path in wanted if path not in here]


def _recipes(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every recipe in ``model``, with what paths below its module begin with."""
    for prefix, module in model.named_modules():
        recipe = vars(module).get("yaml")
        if isinstance(recipe, dict):
            yield (f"{prefix}." if prefix else "", recipe)
