"""Which exit code an error that the user can mend ends in."""

from __future__ import annotations

from llmbench.engines.adapter import EngineError, MissingPackageError
from llmbench.harness.errors import ExitCode, HarnessError
from llmbench.results.run_directory import RunError
from llmbench.workloads.errors import WorkloadError


def exit_code_of(error: Exception) -> int | None:
    """The code for an error of a room; None for anything else, which is a bug and keeps its traceback."""
    match error:
        case HarnessError():
            return int(error.exit_code)
        case MissingPackageError():
            return int(ExitCode.MISSING_PACKAGE)
        case WorkloadError() | EngineError() | RunError():
            return int(ExitCode.CONFIG)
        case _:
            return None
