"""Run as a program: every Triton pass compiled for GPUs that need not be there.

The interpreter runs much that the compiler refuses: a variable that changes its shape in a loop.
The last line of stdout is JSON: for every kernel and variant, the size of its machine code.
"""

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from coordcbam.kernels import triton_backward, triton_forward

KERNELS = (
    triton_forward.profile,
    triton_forward.scale,
    triton_backward.factors,
    triton_backward.maxima,
    triton_backward.input_gradient,
)
INTEGERS = {f"{tensor}{axis}" for tensor in "gx" for axis in "bchw"} | set("BCHW")
FLOATS = {"beta", "low", "high"}
WIDE = {"alpha", "sums", "d_alpha", "row_ties"}
NCHW = {"BC": 1, "BH": 16, "BW": 128, "xw": 1, "gw": 1, "WHOLE": True}
CHANNELS_LAST = {"BC": 32, "BH": 4, "BW": 16, "xc": 1, "gc": 1, "WHOLE": False}
VARIANTS = (
    (80, "fp32", {**NCHW, "CLAMPS": False, "MEASURES": True}),
    (90, "bf16", {**CHANNELS_LAST, "CLAMPS": True, "MEASURES": True}),
    (80, "fp16", {**CHANNELS_LAST, "CLAMPS": False, "MEASURES": False}),
)


def kind(name, dtype):
    """An argument's type, in Triton's words."""
    if name in INTEGERS:
        return "i32"
    if name in FLOATS:
        return "fp32"
    return "*i32" if name == "first" else f"*{'fp32' if name in WIDE else dtype}"


def size(kernel, capability, dtype, constants):
    """Bytes of machine code."""
    names = kernel.arg_names
    known = {(at,): constants[name] for at, name in enumerate(names) if name in constants}
    signature = {name: "constexpr" if name in constants else kind(name, dtype) for name in names}
    source = ASTSource(kernel, signature=signature, constexprs=known)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    return len(compiled.asm["cubin"])


if __name__ == "__main__":
    found = {
        f"{kernel.__name__} sm_{capability} {dtype}": size(kernel, capability, dtype, constants)
        for kernel in KERNELS
        for capability, dtype, constants in VARIANTS
    }
    print(json.dumps(found))
