"""A network's model file with blocks in it, written once it is known to build and to be read."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from coordcbam._support.errors import UsageError
from coordcbam._support.files import write_atomically
from coordcbam.block import BlockConfig
from coordcbam.hosts.yolo.places import probe, resolve
from coordcbam.hosts.yolo.row import options_of
from coordcbam.hosts.yolo.rows import PARTS, text_of, with_rows
from coordcbam.insert import Foreign, Plan, attached, plan


def write(
    network: Any,
    out: Path,
    at: str | int | Iterable[str | int],
    block: BlockConfig | Foreign | None,
    *,
    monitor: bool,
    redirect: bool,
    read: Callable[[Path], Mapping[str, Any]],
    scale_of: Callable[[Path], str],
) -> Plan:
    """Write a model file with blocks as rows behind the layers that ``at`` names.

    The file has the network's class count and its one scale.

    Args:
        network: whose file it is.
        out: a name such as ``yolo11s-coordcbam.yaml``; a scale in it must be the network's.
        at: levels, words or indices, as for inserting.
        block: the block's options, or a block that is not ours; the default is step 3.
        monitor: whether the blocks measure the signal while they train.
        redirect: whether all who read such a layer now read its block.
        read: how the host reads such a file.
        scale_of: what the host reads in its name.

    Raises:
        UsageError: a place that is not there, a network with blocks, or a file that cannot be.
    """
    if attached(network):
        raise UsageError(f"{attached(network)[0]} has a block already: give a model without")
    _check_name(out, network.yaml, scale_of)
    foreign = block if isinstance(block, Foreign) else None
    config = block if isinstance(block, BlockConfig) else None
    indices = resolve(network, at)
    paths = [f"model.{index}" for index in indices]
    planned = plan(network, paths, config=config, block=foreign, inputs=probe(network))
    options = options_of(foreign or planned.config, monitor=monitor)
    recipe, _ = with_rows(network.yaml, indices, options, redirect=redirect)
    name = Path(str(network.yaml.get("yaml_file", "a network"))).name
    layers = ", ".join(map(str, indices))
    text = text_of(recipe, f"{name} with coordcbam's blocks behind its layers {layers}")
    built = {**yaml.safe_load(text), "scale": network.yaml.get("scale")}
    type(network)(built, ch=recipe.get("channels", 3), verbose=False)
    before = out.read_bytes() if out.exists() else None
    try:
        write_atomically(out, text)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}") from None
    found = read(out)
    if any(found[part] != recipe[part] for part in PARTS):
        if before is None:
            out.unlink()
        else:
            write_atomically(out, before)
        raise UsageError(f"{out}: Ultralytics reads another file by this name; choose another")
    return planned


def _check_name(out: Path, recipe: Mapping[str, Any], scale_of: Callable[[Path], str]) -> None:
    if out.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"{out}: expected a name that ends with .yaml")
    said, scale = scale_of(out), recipe.get("scale")
    if recipe.get("scales") and said and scale and said != scale:
        raise UsageError(
            f"{out.name}: Ultralytics reads scale {said!r} in this name, the model has {scale!r}; "
            "put that into the name"
        )
