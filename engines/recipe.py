"""How an engine that clashes with everything else is installed, as data in its adapter's file."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recipe:
    """One engine at one version, in a virtual environment of its own, by pip alone.

    requirements: what `pip install` is told, in one go.
    bare: requirements that are installed after those, without what they ask for themselves; what has to be built is
    built by what the requirements brought.
    build_env: environment variables while `bare` is installed.
    index: a package index to ask too, where the usual ones do not have a requirement.
    without: distributions that the requirements bring and that must go again.
    aliases: distributions that the engine looks itself up by and that its wheel does not declare, name → version.
    program: the command inside the environment whose presence says that it is complete.
    pythons: minor versions of Python 3 that have wheels.
    machines: values of `platform.machine()` that have wheels.
    disk_gib: what the environment takes, roughly.
    needs_nvcc: its own engine computes on NVIDIA GPUs alone, and is compiled by their compiler when it starts.
    example_url: where such an engine might listen, for one that is started elsewhere.
    note: what the user should know before it is installed, a sentence.
    """

    engine: str
    version: str
    requirements: tuple[str, ...]
    program: str
    pythons: tuple[int, ...]
    machines: tuple[str, ...] = ("x86_64",)
    bare: tuple[str, ...] = ()
    build_env: Mapping[str, str] = field(default_factory=dict)
    index: str = ""
    without: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    disk_gib: float = 1.0
    needs_nvcc: bool = False
    example_url: str = "http://host:8000"
    note: str = ""

    def content(self) -> dict[str, list[str] | dict[str, str]]:
        """What decides which packages an environment holds: recipes that differ in it make different environments."""
        return {
            "requirements": list(self.requirements),
            "bare": list(self.bare),
            "build_env": dict(self.build_env),
            "without": list(self.without),
            "aliases": dict(self.aliases),
        }

    def obstacles(self, free_bytes: int) -> list[str]:
        """What stands in the way of installing on this machine, each a sentence with its remedy; empty if nothing."""
        found = []
        if platform.machine() not in self.machines:
            found.append(
                f"{self.engine} {self.version} has wheels for {', '.join(self.machines)}, and this is "
                f"{platform.machine()}; run it elsewhere and give its url."
            )
        if self.python() is None:
            wanted = " or ".join(f"python3.{minor}" for minor in self.pythons)
            found.append(f"{self.engine} {self.version} needs {wanted} on the PATH; install one of them.")
        if free_bytes < self.disk_gib * 2**30:
            found.append(
                f"{self.engine} {self.version} takes about {self.disk_gib:g} GiB, and {free_bytes / 2**30:.1f} GiB are "
                "free; make room, or set LLMBENCH_CACHE to a larger disk."
            )
        return found

    def lacks(self) -> list[str]:
        """What this machine lacks to start the engine once it is installed, each a sentence with its remedy."""
        if not self.needs_nvcc:
            return []
        if not has_nvidia_gpu():
            return [
                "its own engine computes on NVIDIA GPUs alone, and this machine has none; start it where there is one, "
                f"and give its url: engines: [{{{self.engine}: {{url: {self.example_url}}}}}]."
            ]
        if not _has_nvcc():
            return [
                "its own engine is compiled when it starts, and there is no nvcc here; install NVIDIA's CUDA toolkit, "
                "and set CUDA_HOME where nvcc is not on the PATH."
            ]
        return []

    def python(self) -> str | None:
        """The interpreter to build the environment with: this one if it fits, else one from the PATH."""
        if sys.version_info.minor in self.pythons:
            return sys.executable
        return next((path for minor in self.pythons if (path := shutil.which(f"python3.{minor}"))), None)


def has_nvidia_gpu() -> bool:
    """Whether the driver shows a device; on WSL, which has one device for all, whether it is there."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _has_nvcc() -> bool:
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    return shutil.which("nvcc") is not None or any(Path(home, "bin", "nvcc").is_file() for home in homes if home)
