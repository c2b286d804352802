"""Workloads that differ in their prompts alone."""

from __future__ import annotations

from typing import Any

from llmbench.workloads.spec import WorkloadSpec


def spec(prompts: dict[str, Any] | None = None, **changes: Any) -> WorkloadSpec:
    """Six requests and three to warm up; `prompts` are of kind synthetic unless they say otherwise."""
    fields: dict[str, Any] = {
        "name": "test",
        "model": "m",
        "prompts": {"kind": "synthetic", **(prompts or {})},
        "traffic": {"requests": 6, "warmup_requests": 3},
    }
    return WorkloadSpec.model_validate(fields | changes)
