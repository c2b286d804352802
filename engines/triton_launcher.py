"""Writes a model repository and becomes the tritonserver that serves it: a program for that environment's interpreter.

Uses the standard library alone, because llmbench is not installed there; this file is run by its path.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

# A server whose stub has died waits this long for it when it is asked to end; its own default is 30 s.
EXIT_TIMEOUT_S = 5
# Then the process id, which is still the server's when it has taken this program's place: two servers on one machine
# must not meet in shared memory.
SHARED_MEMORY = "llmbench-triton-"


def main() -> None:
    arguments = _parser().parse_args()
    package = _folder_of("pytriton")
    write_model(arguments.folder / "models" / arguments.model_name, arguments.model_source, arguments.settings)
    write_backend(arguments.folder / "backends" / "python", package / "tritonserver")
    program = package / "tritonserver" / "bin" / "tritonserver"
    argv = [str(program), *_server_options(arguments, package), *arguments.args]
    # In place of this process, whose id is the one that is watched and stopped.
    os.execve(program, argv, {**os.environ, **_environment(package)})  # noqa: S606


def write_model(folder: Path, source: Path, settings: str) -> None:
    """The model at version 1: links to the files in `source`, and `settings` as its engine.json."""
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    _link(folder / "config.pbtxt", source / "config.pbtxt")
    _link(version / "model.py", source / "model.py")
    (version / "engine.json").write_text(settings)


def write_backend(folder: Path, server: Path) -> None:
    """Triton's Python backend together with the stub for this interpreter, which its own folder does not hold."""
    folder.mkdir(parents=True, exist_ok=True)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
    backend = server / "backends" / "python"
    for target in (stub, backend / "libtriton_python.so", backend / "triton_python_backend_utils.py"):
        _link(folder / target.name, target)


def _server_options(arguments: argparse.Namespace, package: Path) -> list[str]:
    _remove_leftovers()
    options = {
        "model-repository": arguments.folder / "models",
        "backend-directory": arguments.folder / "backends",
        "cache-directory": package / "tritonserver" / "caches",
        "http-address": "127.0.0.1",
        "http-port": arguments.http_port,
        "allow-grpc": "true" if arguments.grpc_port else "false",
        "metrics-address": "127.0.0.1",
        "metrics-port": arguments.metrics_port,
        "exit-timeout-secs": EXIT_TIMEOUT_S,
        # Its tables of what it is and has would be all that the end of the log shows when it cannot start.
        "log-info": "false",
        "backend-config": f"python,shm-region-prefix-name={SHARED_MEMORY}{os.getpid()}-",
    }
    if arguments.grpc_port:
        options |= {"grpc-address": "127.0.0.1", "grpc-port": arguments.grpc_port}
    return [f"--{name}={value}" for name, value in options.items()]


def _remove_leftovers() -> None:
    """Take away the shared memory of servers that are gone: one that is killed leaves it behind."""
    for region in Path("/dev/shm").glob(f"{SHARED_MEMORY}*"):  # noqa: S108 - where shm_open puts it
        pid = region.name.removeprefix(SHARED_MEMORY).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            region.unlink(missing_ok=True)


def _environment(package: Path) -> dict[str, str]:
    """What the server finds its libraries by, and the stub, which is isolated from the rest, its interpreter."""
    libraries = [package.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    given = os.environ.get("LD_LIBRARY_PATH")
    programs = [Path(sys.executable).parent, os.environ.get("PATH", os.defpath)]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join([*map(str, libraries), *([given] if given else [])]),
        "PATH": os.pathsep.join(map(str, programs)),
    }


def _link(link: Path, target: Path) -> None:
    if not target.is_file():
        raise SystemExit(f"{target} is missing: llmbench engines remove triton, and install it again.")
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed beside {sys.executable}: llmbench engines install triton")
    return Path(found.origin).parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where models and backends are written")
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-source", type=Path, required=True, help="folder with config.pbtxt and model.py")
    parser.add_argument("--settings", required=True, help="the model's engine.json")
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--metrics-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("args", nargs="*", help="further options of tritonserver, after --")
    return parser


if __name__ == "__main__":
    main()
