"""What training asks of the machine: memory that is kept, fast float32 products, one place that says what was chosen.

All of it is set here, at run time, so that nobody has to know an environment variable, and every run record names
what was chosen (``environment`` in run.json).
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch

from ctrlib.config import Precision
from ctrlib.errors import UserError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # names and numbers of glibc's malloc.h
GROW_BYTES = 64 << 20


@lru_cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next allocation; whether it took the advice.

    glibc gives blocks above 32 MB back to the system when they are freed. A training step frees and takes the same
    large blocks every time, and would pay a page fault per 4 kB of them at every step. Counts for the whole process;
    :func:`release_memory` gives back what is free once a training is over.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc, or another system
        return False
    advice = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: GROW_BYTES, M_ARENA_MAX: 1}
    return all([mallopt(name, value) for name, value in advice.items()])


def release_memory() -> None:
    """Give freed memory back to the system."""
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


@lru_cache
def fast_products() -> bool:
    """Whether float32 matrix products on this CPU go to oneDNN instead of MKL.

    MKL does not use the widest vector instructions of processors that are not Intel's, oneDNN does (measured: 1.2 to
    2.2 times the rate). torch reaches oneDNN by a switch that would also allow it to round the operands to bfloat16,
    which it does where the processor has matrix tiles: so its products are compared with exact ones first.
    """
    if not torch.backends.mkldnn.is_available() or is_intel():
        return False
    numbers = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=numbers) for _ in range(2))
    exact = a.double() @ b.double()
    mkl = (a @ b - exact).abs().max()
    with float32_products("medium"):
        onednn = (a @ b - exact).abs().max()
    return bool(onednn <= 8 * mkl)  # bfloat16 operands would be wrong by thousands of times as much


def is_intel() -> bool:
    """Whether the processor says that Intel made it."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


@lru_cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, or for so wide vectors that it does without; unless the system
    does not say, then yes.

    Elsewhere torch computes one product of a hidden layer hundreds of times as long as in float32.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return True
    flags = next((line.split() for line in lines if line.startswith("flags")), None)
    return flags is None or bool({"avx512f", "avx512_bf16", "amx_bf16"} & set(flags))


@contextmanager
def float32_products(switch: str) -> Iterator[None]:
    """torch's float32 matmul precision, put back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(switch)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[str]:
    """Matrix products as ``precision`` says, inside the block; gives what was chosen, in words, for the record.

    ``fp32``: float32 throughout. ``tf32``: float32 with operands rounded to 10 bits in the GPU's matrix units.
    ``bf16``: float32 weights, and bfloat16 operands in the hidden layers in training (see ``MLP.bf16``).

    Raises:
        UserError: ``tf32`` on a CPU, which has no such units, or ``bf16`` on one that is hopelessly slow at it.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision='tf32': needs a GPU; allowed on a CPU: fp32, bf16")
    if precision == "bf16" and device.type == "cpu" and not multiplies_bfloat16():
        problem = "this processor has no AVX-512, and would take hundreds of times as long"
        raise UserError(f"precision='bf16': {problem}; allowed here: fp32")
    if device.type == "cuda":
        switch, path = ("high", "cuBLAS tf32") if precision == "tf32" else ("highest", "cuBLAS fp32")
    else:
        switch, path = ("medium", "oneDNN fp32") if fast_products() else ("highest", "MKL fp32")
    if precision == "bf16":
        path += ", bf16 operands in hidden layers"
    with float32_products(switch):
        yield path


@contextmanager
def training_arithmetic(precision: Precision, device: torch.device) -> Iterator[str]:
    """:func:`arithmetic` with memory that is kept."""
    keep_freed_memory()
    with arithmetic(precision, device) as products:
        yield products
