"""A network out of a file, or the finding that it cannot be one."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import coordcbam
from coordcbam._support.errors import UsageError, said
from coordcbam._support.extras import require
from coordcbam.checks.findings import Finding

YAML = (".yaml", ".yml")


def network_of(file: Path) -> nn.Module | Finding:
    """The network in a checkpoint or a yaml; a finding where a name of it cannot be found.

    Raises:
        UsageError: no such file, or no network in it.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file; expected a .pt, a .yaml or a run's folder")
    if file.suffix in YAML:
        return _of_yaml(file)
    if file.suffix != ".pt":
        raise UsageError(f"{file}: neither a .pt nor a .yaml; an export goes behind --export")
    _check_is_pickle(file)
    try:
        held: Any = torch.load(file, map_location="cpu", weights_only=False)
    except ImportError as error:
        if error.name == "ultralytics":
            require("ultralytics", for_what="opening this checkpoint")
        return _unknown(file, str(error))
    except AttributeError as error:
        return _unknown(file, str(error))
    except Exception as error:  # a pickle may raise anything
        raise UsageError(f"{file}: not a checkpoint of PyTorch ({said(error)[:80]})") from None
    if isinstance(held, dict):
        held = held.get("ema") or held.get("model")
    if not isinstance(held, nn.Module):
        raise UsageError(f"{file}: no network in it; expected a pickled module, not its state")
    return held.float().eval()


def _check_is_pickle(file: Path) -> None:
    """Before it is unpickled: some texts are pickles of a kind.

    Raises:
        UsageError: a text, or a TorchScript.
    """
    with file.open("rb") as opened:
        head = opened.read(4)
    if head != b"PK\3\4" and head[:1] != b"\x80":
        raise UsageError(f"{file}: not a checkpoint of PyTorch; expected a pickled module")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            scripted = any("/code/" in name for name in archive.namelist())
        if scripted:
            raise UsageError(f"{file}: a TorchScript; an export goes behind --export")


def _of_yaml(file: Path) -> nn.Module | Finding:
    require("ultralytics", for_what="building a yaml")
    from coordcbam.hosts.ultralytics import opened

    try:
        network: nn.Module = opened(str(file), to="check").model
    except UsageError as error:
        text = file.read_text(encoding="utf-8", errors="replace")
        named = [name for name in coordcbam.__all__ if name[0].isupper() and name in text]
        if named:
            return _unknown(file, f"{named[0]}: {str(error).rsplit(': ', 1)[-1]}")
        said = str(error).rsplit(": ", 1)[-1]
        # Of a row that it does not know, Ultralytics says the name in quotes and nothing else.
        if re.fullmatch(r"'\w+'", said) and re.search(rf"\b{said[1:-1]}\b", text):
            return _unknown(file, f"no row {said}")
        raise
    return network.eval()


def _unknown(file: Path, text: str) -> Finding:
    return Finding(
        what="a name is not registered",
        where=str(file),
        measured=" ".join(text.split()),
        todo="import what defines it; a block's row is CoordCBAMLayer: coordcbam insert",
    )
