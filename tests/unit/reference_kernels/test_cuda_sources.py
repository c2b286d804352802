"""The CUDA C++ kernels without a GPU: they compile for Hopper, translate to HIP, and are launched without races; and
what they translate to, compiled for the processor, copies as torch does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels import block_copies
from llmbench.reference_engine.kernels.block_copies import Pair, copy_blocks, goes_by_kernel, independent_runs
from llmbench.reference_engine.kernels.cuda_build import SOURCES, compile_cuda, to_hip

NAMES = sorted(source.stem for source in SOURCES.glob("*.cu"))
EMULATION = Path(__file__).parents[2] / "data" / "hip_emulation"


# In CI its absence is a failure, so that nobody takes a skipped compilation for one that passed.
@pytest.mark.skipif(shutil.which("nvcc") is None and "CI" not in os.environ, reason="no nvcc on the PATH")
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_for_sm_90(name: str, tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    compile_cuda(SOURCES / f"{name}.cu", "sm_90", library)
    assert b"sm_90" in library.read_bytes()
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        pytest.skip(f"compiled, and not loadable without CUDA's runtime: {error}")
    assert hasattr(loaded, f"llmbench_{name}")


@pytest.mark.parametrize("name", NAMES)
def test_it_translates_to_hip(name: str, tmp_path: Path) -> None:
    translated = to_hip(SOURCES / f"{name}.cu", tmp_path).read_text(encoding="utf-8")
    assert "#include <hip/hip_runtime.h>" in translated
    assert "hipLaunchKernelGGL" in translated
    code = "\n".join(line for line in translated.splitlines() if not line.lstrip().startswith("//"))
    assert "cuda" not in code
    assert "<<<" not in code


def test_a_missing_compiler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelsUnavailableError, match="nvcc was not found"):
        compile_cuda(SOURCES / f"{NAMES[0]}.cu", "sm_90", tmp_path / "library.so")


def one_by_one(blocks: list[int], pairs: Sequence[Pair]) -> list[int]:
    for source, target in pairs:
        blocks[target] = blocks[source]
    return blocks


def at_once(blocks: list[int], pairs: Sequence[Pair]) -> list[int]:
    """As a GPU may: every read before any write, and the writes backwards."""
    for target, value in reversed([(target, blocks[source]) for source, target in pairs]):
        blocks[target] = value
    return blocks


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_copies_at_once_are_those_made_one_by_one(pairs: list[Pair]) -> None:
    blocks = list(range(6))
    expected = one_by_one(blocks.copy(), pairs)
    for run in independent_runs(pairs, within=True):
        at_once(blocks, run)
    assert blocks == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), unique_by=lambda pair: pair[1]))
def test_between_two_caches_distinct_targets_are_one_run(pairs: list[Pair]) -> None:
    assert list(independent_runs(pairs, within=False)) == ([pairs] if pairs else [])


@pytest.mark.parametrize(("width", "tokens", "goes"), [(64 + 2, 1, False), (64 + 2, 8, True), (128 + 2, 16, True)])
def test_blocks_that_are_no_multiple_of_16_bytes_are_left_to_torch(width: int, tokens: int, goes: bool) -> None:
    """int8 keys with their scales: one token's head of 64 takes 66 bytes."""
    cache = Mock(is_cuda=True, shape=(2, 2, 4, tokens, 1, width), element_size=lambda: 1)
    assert goes_by_kernel(cache, cache) is goes
    assert not goes_by_kernel(torch.empty(2, 2, 4, tokens, 1, width), torch.empty(2, 2, 4, tokens, 1, width))


@pytest.fixture(scope="module")
def copying_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """copy_blocks.cu as HIP, with launches that are loops on this processor."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("hip")
    translated, library = to_hip(SOURCES / "copy_blocks.cu", folder), folder / "library.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{EMULATION}", "-x", "c++", str(translated)]
    subprocess.run([compiler, *options, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def by_kernel(copying_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """copy_blocks goes by the kernel; returns what tells the number of launches, and the stream of the last one."""
    monkeypatch.setattr(block_copies, "goes_by_kernel", lambda *_: True)
    monkeypatch.setattr(block_copies, "load_cuda_library", lambda _name: copying_library)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Mock(cuda_stream=4242))
    launches = ctypes.c_int64.in_dll(copying_library, "hip_emulation_launches")
    launches.value = 0
    return lambda: (launches.value, ctypes.c_void_p.in_dll(copying_library, "hip_emulation_stream").value)


@pytest.mark.parametrize(
    ("planes", "block", "dtype"),
    [
        ((1, 2), (1, 1, 4), torch.float32),  # one unit of 16 bytes
        ((3, 2), (7, 1, 24), torch.bfloat16),  # 21
        ((2, 2), (16, 8, 66), torch.int8),
        ((2, 2), (64, 2, 80), torch.float32),  # more units than threads, and no multiple of them
    ],
)
@pytest.mark.parametrize(
    ("pairs", "num_launches"),
    [([], 0), ([(1, 4)], 1), ([(0, 5), (1, 6), (0, 2)], 1), ([(0, 5), (5, 6), (1, 0), (2, 0)], 3)],
    ids=["none", "one", "independent", "dependent"],
)
def test_the_kernel_copies_as_torch_does(
    by_kernel: Callable[[], tuple[int, int]],
    planes: tuple[int, int],
    block: tuple[int, int, int],
    dtype: torch.dtype,
    pairs: list[Pair],
    num_launches: int,
) -> None:
    def random_cache(num_blocks: int) -> torch.Tensor:
        return torch.randint(-100, 100, (*planes, num_blocks, *block)).to(dtype)

    cache = random_cache(7)
    expected = cache.clone()
    for source, target in pairs:
        expected[:, :, target] = expected[:, :, source]
    copy_blocks(cache, cache, pairs)
    assert torch.equal(cache, expected)
    assert by_kernel() == (num_launches, 4242 if num_launches else by_kernel()[1])
    # Between caches with different numbers of blocks, as those of a device and a host.
    host = random_cache(9)
    expected = host.clone()
    for source, target in pairs:
        expected[:, :, target] = cache[:, :, source]
    copy_blocks(host, cache, pairs)
    assert torch.equal(host, expected)


def test_a_launch_that_fails_is_told(by_kernel: Callable[[], tuple[int, int]]) -> None:
    planes = torch.zeros(40_000, 2, 2, 1, 1, 4)  # a grid has 65 535 rows
    with pytest.raises(KernelsUnavailableError, match="KV blocks could not be copied on cpu: invalid argument"):
        copy_blocks(planes, planes, [(0, 1)])
