"""The four passes in C: float32 on the CPU, NCHW and channels_last, each in its own layout.

The library is optional: it is built at install where there is a compiler, and has no link to
PyTorch or OpenMP. Python divides the work among threads, since ctypes lets go of the interpreter.
"""

import ctypes
import functools
import importlib.machinery
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from coordcbam.kernels.passes import Factors, Passes, Shape, Statistics

GRAIN = 1 << 16  # elements a thread must have to do, or handing them over costs more
WIDEST = 8  # floats of a vector, if the machine has such vectors

_INTEGERS = ("batch", "channels", "height", "width")
_SMALL = ("channels_last", "widest", "clamps")
_NUMBERS = ("beta", "low", "high", "alpha")
_POINTERS = (
    *("x", "grad", "out", "channel", "rows", "cols"),
    *Statistics._fields,
    *(f"grad_{name}" for name in ("mean", "peak", "row_mean", "row_max", "col_mean", "col_max")),
    *("grad_channel", "grad_rows", "grad_cols", "sums"),
)


class _Job(ctypes.Structure):
    """``Job`` of csrc/table.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _INTEGERS),
        *((name, ctypes.c_int32) for name in _SMALL),
        *((name, ctypes.c_float) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


def supports(x: Tensor) -> str | None:
    """Why these kernels cannot take ``x``; None if they can."""
    return unfit(x) or missing()


def unfit(x: Tensor) -> str | None:
    """Why ``x`` is nothing for these kernels, whatever the machine; its layout they change."""
    if x.device.type != "cpu":
        return f"x is on {x.device}, not on the CPU"
    if x.dtype != torch.float32:
        return f"x is {x.dtype}, not torch.float32"
    if x.layout != torch.strided or x.dim() != 4:
        return f"x is not a dense (B, C, H, W): {x.layout}, {x.dim()} dimensions"
    if x.numel() == 0:
        return f"x is empty: {tuple(x.shape)}"
    return None


def missing() -> str | None:
    """Why this machine cannot run them; None where it can."""
    if torch.compiler.is_compiling():
        return _MISSING  # a graph cannot look for files
    found = _library()
    return found if isinstance(found, str) else None


def readable(tensor: Tensor) -> bool:
    """Whether :func:`number` can read it where it lies."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
    )


def number(alpha: Tensor) -> float:
    """The value of a 0-dim tensor on the CPU, read where it lies: no operation of PyTorch."""
    if alpha.dtype != torch.float32:
        return float(alpha)
    return ctypes.c_float.from_address(alpha.data_ptr()).value


def profile(x: Tensor) -> Statistics:
    """Means and maxima of rows, columns and channels, in one pass."""
    batch, channels, height, width = x.shape
    found = Statistics(
        mean=x.new_empty(batch, channels),
        peak=x.new_empty(batch, channels),
        row_mean=x.new_empty(batch, channels, height),
        row_max=x.new_empty(batch, channels, height),
        col_mean=x.new_empty(batch, channels, width),
        col_max=x.new_empty(batch, channels, width),
    )
    _run("profile", x, found._asdict())
    return found


def scale(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> Tensor:
    """``x * (1 + alpha * (g - 1))``, in one pass."""
    out = torch.empty_like(x)
    _run("scale", x, {"out": out, **factors._asdict()}, shape, alpha)
    return out


def measure(x: Tensor, factors: Factors, shape: Shape, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The same bits, and the sums that a monitor reads, (5, B) in float64, in the same pass."""
    out = torch.empty_like(x)
    sums = x.new_empty((x.shape[0], _units(x), 5), dtype=torch.float64)
    _run("measure", x, {"out": out, "sums": sums, **factors._asdict()}, shape, alpha)
    return out, sums.sum(dim=1).t()


def factor_gradients(
    grad: Tensor, x: Tensor, factors: Factors, shape: Shape, alpha: Tensor
) -> tuple[Factors, Tensor]:
    """Gradients of the factors and of alpha, in one pass over grad and x."""
    found = Factors(*(x.new_empty(t.shape) for t in factors))
    sums = x.new_empty(x.shape[:2], dtype=torch.float64)
    tensors = {"grad": grad, "sums": sums, **factors._asdict(), **_prefixed(found)}
    _run("factors", x, tensors, shape, alpha)
    return found, sums.sum().to(x.dtype)


def input_gradient(
    grad: Tensor,
    x: Tensor,
    factors: Factors,
    shape: Shape,
    alpha: Tensor,
    statistics: Statistics,
    gradients: Statistics,
) -> Tensor:
    """Gradient of x, in one pass over grad and x: ties are counted a plane at a time, in cache."""
    out = torch.empty_like(x)
    small = {**factors._asdict(), **statistics._asdict(), **_prefixed(gradients)}
    _run("input", x, {"grad": grad, "out": out, **small}, shape, alpha)
    return out


def _prefixed(gradients: Factors | Statistics) -> dict[str, Tensor]:
    return {f"grad_{name}": value for name, value in gradients._asdict().items()}


_UNCLAMPED = Shape(beta=1.0, low=float("-inf"), high=float("inf"))


def _run(
    name: str,
    x: Tensor,
    tensors: dict[str, Tensor],
    shape: Shape = _UNCLAMPED,
    alpha: Tensor | None = None,
) -> None:
    """Make one pass; ``tensors`` by the names of :class:`_Job`."""
    kept = {"x": x, **{key: _laid_out(tensor, x) for key, tensor in tensors.items()}}
    batch, channels, height, width = x.shape
    job = _Job(
        batch,
        channels,
        height,
        width,
        not x.is_contiguous(),
        WIDEST,
        shape.clamps,
        *shape,
        0.0 if alpha is None else number(alpha),
        **{key: tensor.data_ptr() for key, tensor in kept.items()},
    )
    _divide(getattr(_loaded(), f"coordcbam_{name}"), job, batch * _units(x), x.numel())


def _laid_out(tensor: Tensor, x: Tensor) -> Tensor:
    """The same numbers as the kernels read them: maps as x, small tensors row by row."""
    if tensor.dim() < 4 or x.is_contiguous():
        return tensor.contiguous()
    return tensor.contiguous(memory_format=torch.channels_last)


def _units(x: Tensor) -> int:
    """Into how many independent parts a sample divides."""
    count: int = _loaded().coordcbam_units(x.shape[1], not x.is_contiguous())
    return count


def _divide(entry: "ctypes._NamedFuncPointer", job: _Job, units: int, elements: int) -> None:
    """Call ``entry`` for all units, in as many threads as PyTorch would use and the work feeds."""
    threads = min(torch.get_num_threads(), units, elements // GRAIN)
    if threads <= 1:
        codes = [entry(ctypes.byref(job), 0, units)]
    else:
        codes = _in_threads(entry, job, units, threads)
    if any(codes):
        raise MemoryError("the CPU kernels found no memory for a few rows of x")


def _in_threads(
    entry: "ctypes._NamedFuncPointer", job: _Job, units: int, threads: int
) -> list[int]:
    """What each thread's call returned."""
    ends = [units * i // threads for i in range(threads + 1)]
    argument = ctypes.byref(job)
    others = [
        _workers(threads - 1).submit(entry, argument, ends[i], ends[i + 1])
        for i in range(1, threads)
    ]
    return [entry(argument, ends[0], ends[1]), *(other.result() for other in others)]


_pool: tuple[int, ThreadPoolExecutor] | None = None


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603  (threads are the process's, not a block's)
    pool = _pool
    if pool is None or pool[0] < count:
        pool = _pool = (count, ThreadPoolExecutor(count, thread_name_prefix="coordcbam"))
    return pool[1]


def _forget_workers() -> None:
    """A forked child has the pool's object but none of its threads."""
    global _pool  # noqa: PLW0603
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def _loaded() -> ctypes.CDLL:
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(f"the CPU kernels cannot run: {library}")
    return library


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    return _load(Path(__file__).parent)


def _load(folder: Path) -> ctypes.CDLL | str:
    names = [f"_cpu{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        return "the library is not built; reinstall coordcbam where there is a C compiler"
    old = f"{path.name} is of another version; reinstall coordcbam"
    try:
        library = ctypes.CDLL(str(path))
        library.coordcbam_job_size.restype = ctypes.c_int64
        library.coordcbam_units.restype = ctypes.c_int64
        library.coordcbam_units.argtypes = [ctypes.c_int64, ctypes.c_int32]
        size = library.coordcbam_job_size()
        for name in ("profile", "scale", "measure", "factors", "input"):
            entry = getattr(library, f"coordcbam_{name}")
            entry.argtypes = [ctypes.POINTER(_Job), ctypes.c_int64, ctypes.c_int64]
        for name in ("whole", "side", "slopes", "totals", "probe", "tell", "commit"):
            getattr(library, f"coordcbam_{name}")  # for other files
    except OSError as error:
        return f"the library does not load: {error}"
    except AttributeError:  # an entry that it does not have
        return old
    return library if size == ctypes.sizeof(_Job) else old


_MISSING = missing()
PASSES = Passes(
    name="cpu",
    profile=profile,
    scale=scale,
    measure=measure,
    factors=factor_gradients,
    input=input_gradient,
)
