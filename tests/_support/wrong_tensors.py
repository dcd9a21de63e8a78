"""Inputs that no block may take, with what the error has to say of them."""

import warnings

import numpy as np
import torch
from torch import nn

CHANNELS = 8
MAP = torch.ones(2, CHANNELS, 4, 4)
RANKS = [(), (8,), (2, 8), (8, 4, 4), (2, 8, 4, 4, 1), (2, 8, 4, 4, 1, 1), (0,), (1, 2, 8, 4, 4)]
WIDTHS = [(2, 1, 4, 4), (2, 0, 4, 4), (2, 7, 4, 4), (2, 9, 4, 4), (2, 16, 4, 4), (2, 4, 4, 8)]
EMPTY = [(2, 8, 0, 4), (2, 8, 4, 0), (2, 8, 0, 0), (0, 8, 0, 4)]
NO_SIGNAL = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint64", "bool"]
NO_SIGNAL += ["complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"]
NOT_ITS_OWN = ["float64", "float16", "bfloat16"]  # of a float32 block
THINGS = {
    "NoneType": None,
    "int": 3,
    "float": 1.0,
    "bool": True,
    "str": "x",
    "bytes": b"x",
    "list": [[1.0]],
    "tuple": (MAP,),
    "dict": {"x": MAP},
    "set": {1},
    "ndarray": np.ones((2, CHANNELS, 4, 4), np.float32),
    "Size": MAP.shape,
    "dtype": torch.float32,
    "ReLU": nn.ReLU(),
    "generator": (x for x in [MAP]),
    "object": object(),
}


def _unusual():
    """``(name, tensor, words)`` of odd layouts and dtypes."""
    parts = [torch.ones(3, 4), torch.ones(2, 4)]
    layouts = {
        "sparse_coo": MAP.to_sparse(),
        "sparse_csr": MAP.to_sparse_csr(),
        "mkldnn": MAP.to_mkldnn(),
        "nested": torch.nested.nested_tensor([torch.ones(8, 4, 4), torch.ones(8, 3, 3)]),
    }
    dtypes = {name: MAP.to(getattr(torch, name)) for name in NO_SIGNAL}
    for name in ("quint8", "qint8"):
        dtypes[name] = torch.quantize_per_tensor(MAP, 0.1, 0, getattr(torch, name))
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    return [
        ("jagged", jagged, "got a nested tensor, expected a dense (B, "),
        *((name, x, f"got a {name} tensor, expected a dense (B, ") for name, x in layouts.items()),
        *((name, x, f"got dtype torch.{name}, expected ") for name, x in dtypes.items()),
    ]


def for_every_block():
    """``(name, input, words)``: what neither a block nor a guard can take."""
    want = "expected a (B, "
    cases = [(f"rank {len(s)} {s}", torch.ones(s), f"got shape {s}, expected (B, ") for s in RANKS]
    cases += [(f"empty {s}", torch.ones(s), f"got an empty map {s}") for s in EMPTY]
    cases += [(f"a {name}", thing, f"got {name}, {want}") for name, thing in THINGS.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls most of these beta
        cases += _unusual()
    return [*cases, ("meta", MAP.to("meta"), "got a tensor on meta")]


def for_our_blocks():
    """Besides, what a block of 8 channels in float32 cannot take."""
    cases = [(f"width {s[1]}", torch.ones(s), f"got shape {s}, expected (B, 8, ") for s in WIDTHS]
    for name in NOT_ITS_OWN:
        words = f"got dtype torch.{name}, expected torch.float32"
        cases.append((name, MAP.to(getattr(torch, name)), words))
    return cases
