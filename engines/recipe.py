"""How an engine that clashes with everything else is installed, as data in its adapter's file."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Recipe:
    """One engine at one version, in a virtual environment of its own, by pip alone.

    requirements: what `pip install` is told, in one go.
    bare: requirements that are installed before those, without what they ask for themselves.
    without: distributions that the requirements bring and that must go again.
    aliases: distributions that the engine looks itself up by and that its wheel does not declare, name → version.
    program: the command inside the environment whose presence says that it is complete.
    pythons: minor versions of Python 3 that have wheels.
    machines: values of `platform.machine()` that have wheels.
    disk_gib: what the environment takes, roughly.
    note: what the user should know before it is installed, a sentence.
    """

    engine: str
    version: str
    requirements: tuple[str, ...]
    program: str
    pythons: tuple[int, ...]
    machines: tuple[str, ...] = ("x86_64",)
    bare: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    disk_gib: float = 1.0
    note: str = ""

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

    def python(self) -> str | None:
        """The interpreter to build the environment with: this one if it fits, else one from the PATH."""
        if sys.version_info.minor in self.pythons:
            return sys.executable
        return next((path for minor in self.pythons if (path := shutil.which(f"python3.{minor}"))), None)
