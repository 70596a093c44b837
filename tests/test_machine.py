"""What is asked of the machine is asked, is put back, and is refused where the machine has it not."""

import sys
from contextlib import contextmanager, nullcontext

import psutil
import pytest
import torch
from processes import answer_of

from ctrlib.errors import UserError
from ctrlib.fast import machine
from ctrlib.fast.machine import arithmetic, fast_products, keep_freed_memory, release_memory

CPU = torch.device("cpu")


def faults_of(keep: bool) -> tuple[bool | None, int, int]:
    """Whether memory is kept; page faults of ten tensors, once the heap has its size; pages that are given back."""
    import resource

    took = keep_freed_memory() if keep else None
    for n in range(20):
        if n == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    held = psutil.Process().memory_info().rss
    if took:
        release_memory()
    return took, faults, held - psutil.Process().memory_info().rss


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_and_given_back_when_asked() -> None:
    (_, faults, _), (took, kept_faults, freed) = (answer_of(faults_of, keep) for keep in (False, True))
    assert took
    assert kept_faults < faults / 20
    assert freed > 30_000_000


def test_products_are_float32_the_path_is_named_and_the_switch_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    numbers = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 624, generator=numbers), torch.randn(624, 400, generator=numbers)
    with arithmetic("fp32", CPU) as path:
        assert torch.get_float32_matmul_precision() == ("medium" if fast_products() else "highest")
        assert path == ("oneDNN fp32" if fast_products() else "MKL fp32")
        error = (a @ b - a.double() @ b.double()).abs().max()
    assert error < 5e-4  # operands rounded to bfloat16 are wrong by about 0.3
    with pytest.raises(ZeroDivisionError), arithmetic("fp32", CPU):
        1 / 0  # noqa: B018
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(UserError, match="fp32, bf16"), arithmetic("tf32", CPU):
        pass


def test_a_processor_that_would_round_is_found_out(monkeypatch) -> None:
    """Where the fast path takes bfloat16 operands, as with matrix tiles, it is not used."""

    @contextmanager
    def rounding(switch: str):
        with monkeypatch.context() as patch:
            exact = torch.Tensor.__matmul__
            patch.setattr(torch.Tensor, "__matmul__", lambda a, b: exact(a.bfloat16(), b.bfloat16()).to(a.dtype))
            yield

    monkeypatch.setattr(machine, "is_intel", lambda: False)
    assert fast_products.__wrapped__() == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(machine, "float32_products", rounding)
    assert fast_products.__wrapped__() is False


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        ("flags\t: fpu avx2 fma", False),
        ("flags\t: fpu avx2 avx512f", True),
        ("flags\t: avx2 amx_bf16", True),
        ("Features : asimd", True),  # not an x86 processor
    ],
)
def test_bfloat16_is_refused_where_it_is_hopelessly_slow(monkeypatch, flags, allowed) -> None:
    monkeypatch.setattr(machine.Path, "read_text", lambda self: f"model name : a\n{flags}\n")
    monkeypatch.setattr(machine, "multiplies_bfloat16", machine.multiplies_bfloat16.__wrapped__)
    refused = pytest.raises(UserError, match=r"no AVX-512.*allowed here: fp32")
    with nullcontext() if allowed else refused, arithmetic("bf16", CPU) as path:
        assert "bf16" in path
