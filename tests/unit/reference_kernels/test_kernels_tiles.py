"""The linear by AMX tiles, its instructions emulated: without such a processor, that is how its logic is known to be
right."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from llmbench.reference_engine.kernels.build import COMMON_FLAGS, SOURCES
from llmbench.reference_engine.kernels.packing import pack

DATA = Path(__file__).parents[2] / "data"
SWIGLU = 1

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the tiles are x86's")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """The linear with emulated tiles, and the portable one."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("tiles")
    loaded = []
    for name, flags in {"tiles": ["-include", str(DATA / "amx_emulation.h")], "portable": []}.items():
        library = folder / f"{name}.so"
        common = [flag for flag in COMMON_FLAGS if flag != "-fvisibility=hidden"]
        sources = [*flags, f"-DLLMBENCH_ISA={name}", f"-I{SOURCES}", str(DATA / "linear_probe.cpp")]
        subprocess.run([compiler, *common, "-O1", "-shared", *sources, "-o", str(library)], check=True)
        loaded.append(ctypes.CDLL(str(library)))
    return loaded[0], loaded[1]


def linear(
    library: ctypes.CDLL, x: torch.Tensor, packed: torch.Tensor, weight_format: int, out_features: int, activation: int
) -> torch.Tensor:
    (num_rows, in_features), (num_panels, num_groups, _) = x.shape, packed.shape
    width = num_groups * 64
    # Behind the inputs lies what is no number, as it may in memory that is used again.
    inputs = torch.full((num_rows + 15, width), float("nan"))
    scales, sums = torch.empty(num_rows * num_groups), torch.empty(num_rows * num_groups, dtype=torch.int32)
    scratch, out = torch.empty(width), torch.full((num_rows, out_features), float("nan"))

    def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    sizes = [ctypes.c_int64(n) for n in (num_rows, in_features, out_features)]
    library.linear(
        pointer(x),
        *sizes,
        pointer(packed),
        ctypes.c_int64(num_panels),
        ctypes.c_int64(num_groups),
        weight_format,
        activation,
        *map(pointer, (inputs, scales, sums, scratch, out)),
    )
    return out


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_integers_stay_with_vectors(libraries: tuple[ctypes.CDLL, ctypes.CDLL], scheme: str) -> None:
    """On a processor with AMX they were faster: docs/gpu.md."""
    _, number = pack(torch.randn(64, 64), scheme, pairs=False)  # type: ignore[arg-type]
    assert not libraries[0].uses_tiles(number)


@pytest.mark.parametrize("num_rows", [1, 5, 16, 33, 129])
@pytest.mark.parametrize(("in_features", "out_features"), [(64, 64), (130, 33), (192, 321)])
def test_bf16_equals_torch(
    libraries: tuple[ctypes.CDLL, ctypes.CDLL], num_rows: int, in_features: int, out_features: int
) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    weight = (torch.randn(out_features, in_features, generator=generator) * 0.1).bfloat16()
    x = torch.randn(num_rows, in_features, generator=generator).bfloat16().float()
    packed, number = pack(weight, None, pairs=False)
    assert libraries[0].uses_tiles(number)
    expected = x @ weight.float().T
    ours = linear(libraries[0], x, packed, number, out_features, 0)
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize("scheme", ["int8", "int4", None])
def test_a_rows_result_does_not_depend_on_its_batch(
    libraries: tuple[ctypes.CDLL, ctypes.CDLL], scheme: str | None
) -> None:
    """Swiglu has two outputs in a panel's one."""
    weight = torch.randn(200, 130, generator=torch.Generator().manual_seed(0)) * 0.1
    x = torch.randn(150, 130, generator=torch.Generator().manual_seed(1))
    weight = weight if scheme else weight.bfloat16()
    packed, number = pack(weight, scheme, pairs=True)  # type: ignore[arg-type]
    whole = linear(libraries[0], x, packed, number, 100, SWIGLU)
    for row in (0, 15, 16, 127, 128, 149):
        alone = linear(libraries[0], x[row : row + 1].contiguous(), packed, number, 100, SWIGLU)
        assert torch.equal(alone, whole[row : row + 1])
