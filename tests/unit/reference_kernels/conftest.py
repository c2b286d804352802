"""The kernels under test: torch always, C++ for each instruction set of this processor where it compiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.kernels.contract import Kernels

INSTRUCTION_SETS = ("amx", "avx512_bf16", "avx512", "avx2", "portable")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def oracle() -> Kernels:
    return dispatch.load("torch", 1)


@pytest.fixture(scope="session")
def load_cpp() -> Callable[[str], Kernels]:
    """Instruction set to the C++ kernels on two threads; skips where there is no compiler or no such processor."""

    def load(instruction_set: str) -> Kernels:
        try:
            kernels = dispatch.load("cpp", 2)
        except KernelsUnavailableError as error:
            pytest.skip(str(error))
        if instruction_set not in torch.ops.llmbench.instruction_sets().split(","):
            pytest.skip(f"this processor has no {instruction_set}")
        torch.ops.llmbench.set_instruction_set(instruction_set)
        return kernels

    return load


@pytest.fixture(params=INSTRUCTION_SETS)
def cpp(request: pytest.FixtureRequest, load_cpp: Callable[[str], Kernels]) -> Iterator[Kernels]:
    yield load_cpp(request.param)
    torch.ops.llmbench.set_instruction_set(torch.ops.llmbench.instruction_sets().split(",")[0])
