"""The file of `llmbench gate --thresholds`, read with the same care as a workload."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from llmbench.harness.errors import ConfigError
from llmbench.results.gate import GateSpec
from llmbench.workloads.errors import Problem, WorkloadError
from llmbench.workloads.problems import problems_of
from llmbench.workloads.yaml_document import parse_bytes


def read_thresholds(path: Path | None) -> GateSpec:
    """The thresholds in a YAML file; the default ones for None or a file of comments alone.

    Raises ConfigError for a file that cannot be read, and WorkloadError that names line, field and what is allowed.
    """
    if path is None:
        return GateSpec()
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--thresholds {path} cannot be read: {error.strerror}.") from None
    document = parse_bytes(raw, str(path))
    if document.data is None:
        return GateSpec()
    if not isinstance(document.data, dict):
        kind = "a list" if isinstance(document.data, list) else "a single value"
        problem = f"the file holds {kind}, allowed: a mapping with the fields {', '.join(GateSpec.model_fields)}"
        raise WorkloadError.of([Problem(document.where(()), problem)])
    try:
        return GateSpec.model_validate(document.data)
    except ValidationError as error:
        problems = problems_of(
            error, document.data, GateSpec.model_json_schema(), lambda at, at_key: document.where(at, key=at_key)
        )
        raise WorkloadError.of(problems) from None
