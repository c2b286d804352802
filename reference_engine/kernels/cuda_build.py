"""CUDA C++ sources as loaded libraries: compiled on first use by nvcc, or by hipcc once they are translated."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from llmbench.reference_engine.cache_root import cache_root
from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels.build import locked

SOURCES = Path(__file__).parent / "csrc" / "cuda"
COMMON_FLAGS = ("-std=c++17", "-O3", "-shared")


@functools.cache
def load_cuda_library(name: str) -> ctypes.CDLL:
    """csrc/cuda/NAME.cu for the current device.

    Raises KernelsUnavailableError where the compiler is missing or refuses the source.
    """
    is_hip = torch.version.hip is not None
    if is_hip:
        architecture = torch.cuda.get_device_properties(0).gcnArchName.partition(":")[0]
    else:
        major, minor = torch.cuda.get_device_capability()
        architecture = f"sm_{major}{minor}"
    source = SOURCES / f"{name}.cu"
    digest = hashlib.sha256(repr(COMMON_FLAGS).encode() + source.read_bytes()).hexdigest()[:16]
    library = cache_root() / "kernels" / f"{name}-{architecture}-{digest}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with locked(library.with_suffix(".lock")):
            if not library.exists():
                scratch = library.with_suffix(".part.so")
                (compile_hip if is_hip else compile_cuda)(source, architecture, scratch)
                scratch.replace(library)
    return ctypes.CDLL(str(library))


def compile_cuda(source: Path, architecture: str, library: Path) -> None:
    """Machine code for one architecture, such as sm_90; no GPU is needed. Raises KernelsUnavailableError."""
    _compile("nvcc", [f"-arch={architecture}", "-Xcompiler=-fPIC", str(source), "-o", str(library)])


def compile_hip(source: Path, architecture: str, library: Path) -> None:
    """The same for an AMD architecture, such as gfx942. Raises KernelsUnavailableError."""
    with tempfile.TemporaryDirectory() as scratch:
        translated = to_hip(source, Path(scratch))
        _compile("hipcc", [f"--offload-arch={architecture}", "-fPIC", str(translated), "-o", str(library)])


def to_hip(source: Path, folder: Path) -> Path:
    """A CUDA C++ source as HIP, written below the folder by torch's own translator."""
    from torch.utils.hipify.hipify_python import hipify

    project = folder / "project"
    project.mkdir()
    shutil.copy(source, project)
    with contextlib.redirect_stdout(io.StringIO()):
        hipify(str(project), output_directory=str(folder / "translated"), includes=["*"], show_progress=False)
    return next((folder / "translated").rglob("*.hip"))


def _compile(compiler: str, arguments: list[str]) -> None:
    path = shutil.which(compiler)
    if path is None:
        raise KernelsUnavailableError(f"The CUDA C++ kernels are compiled on first use, and {compiler} was not found.")
    command = [path, *COMMON_FLAGS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise KernelsUnavailableError(f"The CUDA C++ kernels did not compile: {compiler}: {done.stderr[-2000:]}")
