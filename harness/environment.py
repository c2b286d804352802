"""Where a run took place, as far as a reader needs it to judge or repeat the numbers; and when, by the wall clock.

No host name, user name or address is recorded: results are made to be shared.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import JsonValue

from llmbench.results.manifest import ClockManifest

# Those that decide how an answer is made, read or counted.
PACKAGES = (
    "httptools",
    "llmbench",
    "numpy",
    "pyarrow",
    "pydantic",
    "safetensors",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
    "uvicorn",
    "uvloop",
)
_CPU = Path("/sys/devices/system/cpu")
_TOOL_TIMEOUT_S = 10


def environment(folder: Path | None = None) -> dict[str, JsonValue]:
    """This machine, its software and the git state of `folder` (default: the working directory).

    What cannot be read is None, never a guess.
    """
    memory = psutil.virtual_memory()
    cpu_info = _read(Path("/proc/cpuinfo")) or ""
    return {
        "cpu": _cpu_model(cpu_info),
        "cpu_features": _cpu_features(cpu_info),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(logical=True),
        "cores_usable": len(os.sched_getaffinity(0)) if sys.platform == "linux" else None,
        "cpu_quota": _cpu_quota(),
        "cpu_governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
        "turbo": _turbo(),
        "hypervisor": _hypervisor(cpu_info),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "gpus": _gpus(),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "clocksource": _read(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": _package_versions(),
        "git": _git_state(folder or Path.cwd()),
    }


def utc_now() -> datetime:
    """The wall clock, to date a run. Durations never come from it."""
    return datetime.now(UTC)


def clock() -> ClockManifest:
    """The monotonic clock of all stamps, tied once to the wall clock."""
    before_ns = time.perf_counter_ns()
    now = utc_now()
    after_ns = time.perf_counter_ns()
    return ClockManifest(
        origin_ns=(before_ns + after_ns) // 2,
        origin_utc=now.isoformat(timespec="microseconds"),
        resolution_ns=round(time.get_clock_info("perf_counter").resolution * 1e9),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _cpu_field(cpu_info: str, name: str) -> str | None:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", cpu_info, re.MULTILINE)
    return found[1].strip() if found else None


def _cpu_model(cpu_info: str) -> str | None:
    # ARM kernels name no model; the machine's own word is then all there is.
    return _cpu_field(cpu_info, "model name") or platform.processor() or None


def _cpu_features(cpu_info: str) -> list[JsonValue]:
    """The vector and matrix extensions among the CPU's flags, as the kernel spells them."""
    flags = (_cpu_field(cpu_info, "flags") or _cpu_field(cpu_info, "Features") or "").split()
    return [*sorted(flag for flag in flags if re.match(r"(avx|amx|fma$|f16c$|asimd|sve|neon|bf16|i8mm)", flag))]


def _hypervisor(cpu_info: str) -> str | None:
    """What virtualises this machine, "unnamed" where the CPU only says that something does; None on bare metal."""
    named = _read(Path("/sys/hypervisor/type")) or _run("systemd-detect-virt", "--vm")
    if named and named != "none":
        return named
    return "unnamed" if "hypervisor" in (_cpu_field(cpu_info, "flags") or "").split() else None


def _cpu_quota() -> float | None:
    """How many cores' worth of time this container may use; None without a limit."""
    quota, _, period = (_read(Path("/sys/fs/cgroup/cpu.max")) or "max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _turbo() -> bool | None:
    boost = _read(_CPU / "cpufreq/boost")
    if boost is not None:
        return boost == "1"
    no_turbo = _read(_CPU / "intel_pstate/no_turbo")
    return None if no_turbo is None else no_turbo == "0"


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _gpus() -> list[JsonValue]:
    """NVIDIA devices by their driver's own tool; empty where there is none."""
    fields = ("name", "memory.total", "driver_version")
    said = _run("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    rows = [[part.strip() for part in line.split(",")] for line in (said or "").splitlines()]
    return [{"name": row[0], "memory": row[1], "driver": row[2]} for row in rows if len(row) == len(fields)]


def _package_versions() -> dict[str, JsonValue]:
    versions: dict[str, JsonValue] = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _git_state(folder: Path) -> dict[str, JsonValue] | None:
    """The commit checked out in `folder`, and whether files there differ from it; None outside a repository."""
    commit = _run("git", "-C", str(folder), "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _run("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _run(*argv: str) -> str | None:
    """What a tool printed; None where it is not there or fails."""
    if shutil.which(argv[0]) is None:
        return None
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
