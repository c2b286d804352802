"""The C++ kernels as a loaded library: compiled on first use, kept in the cache, one file per version of anything."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from llmbench.reference_engine.cache_root import cache_root
from llmbench.reference_engine.errors import KernelsUnavailableError

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "csrc"
COMMON_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi")

# One object per instruction set from the same isa.cpp; which one runs is decided when the library is loaded.
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mavx2")
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "portable": (),
        "avx2": ("-mavx2", "-mfma"),
        "avx512": _AVX512,
        "avx512_bf16": (*_AVX512, "-mavx512bf16"),
        "amx": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    },
    "aarch64": {"portable": ()},
}


@functools.cache
def load_library() -> Path:
    """Make torch.ops.llmbench exist; returns the library's file.

    Raises KernelsUnavailableError, in one sentence, where there is no compiler or the compilation fails.
    """
    library = _cached_library()
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise KernelsUnavailableError(f"The compiled kernels {library} cannot be loaded: {error}") from error
    return library


def _cached_library() -> Path:
    if platform.system() != "Linux" or platform.machine() not in INSTRUCTION_SETS:
        raise KernelsUnavailableError(
            f"The C++ kernels are written for Linux on {' and '.join(INSTRUCTION_SETS)}; this is "
            f"{platform.system()} on {platform.machine()}."
        )
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    if compiler is None:
        raise KernelsUnavailableError(
            "The C++ kernels are compiled on first use, and no compiler was found: install g++, or set CXX."
        )
    command = shlex.split(compiler)
    folder = cache_root() / "kernels" / _digest(command)
    library = folder / "llmbench_kernels.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):  # two engines that start at once compile once
            if not library.exists():
                log.info("Compiling the C++ kernels, once for this version of them: half a minute on two free cores.")
                _compile(command, library)
    return library


def _digest(command: list[str]) -> str:
    """Changes with the sources, the flags, torch and the compiler: an old library is never loaded by mistake."""
    try:
        version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise KernelsUnavailableError(f"The compiler {shlex.join(command)} does not run: {error}") from error
    digest = hashlib.sha256()
    for part in (torch.__version__, version, COMMON_FLAGS, INSTRUCTION_SETS[platform.machine()]):
        digest.update(repr(part).encode())
    for source in sorted(filter(Path.is_file, SOURCES.iterdir())):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """No other process is inside with the same file."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compile(command: list[str], library: Path) -> None:
    torch_root = Path(torch.__file__).parent
    includes = [f"-isystem{torch_root / 'include'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        objects: dict[str, tuple[str, tuple[str, ...]]] = {
            "ops.o": ("ops.cpp", (*includes, abi)),
            "step_recorder.o": ("step_recorder.cpp", (*includes, abi)),
            "thread_pool.o": ("thread_pool.cpp", ()),
        }
        for name, flags in INSTRUCTION_SETS[platform.machine()].items():
            objects[f"{name}.o"] = ("isa.cpp", (*flags, f"-DLLMBENCH_ISA={name}"))
        _run_all(
            [*command, *COMMON_FLAGS, *flags, "-c", str(SOURCES / source), "-o", str(Path(scratch) / target)]
            for target, (source, flags) in objects.items()
        )
        linked = Path(scratch) / library.name
        libraries = [f"-L{torch_root / 'lib'}", "-ltorch_cpu", "-lc10", "-lpthread"]
        _run_all([[*command, "-shared", *[str(Path(scratch) / o) for o in objects], *libraries, "-o", str(linked)]])
        linked.replace(library)


def _run_all(commands: Iterable[list[str]]) -> None:
    """All at once; raises for the first that failed when all have ended."""
    running = [
        (command, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        for command in commands
    ]
    complaints = [process.communicate()[1] for _, process in running]
    for (command, process), text in zip(running, complaints, strict=True):
        if process.returncode != 0:
            raise KernelsUnavailableError(
                f"The C++ kernels did not compile: {shlex.join(command)} ended with:\n{text[-2000:]}"
            )
