"""The digest of a workload is its meaning; JSON Schema and loader accept and refuse the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import json_schema, load, loads, shipped, template
from llmbench.workloads.spec import WorkloadSpec

MINIMAL = "name: t\nmodel: m\n"

# The digest is stored with every result: it may change only together with what a workload means.
MINIMAL_DIGEST = "bf589ed029fe26ee1265ee4d68c9258b5320df53135c5e50d732ac5ee0c7cd07"


def test_the_digest_is_the_same_in_every_process_and_release() -> None:
    code = "from llmbench.workloads.loader import loads; print(loads('name: t\\nmodel: m\\n').digest())"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert said == {MINIMAL_DIGEST}


def test_the_digest_ignores_how_a_workload_is_written() -> None:
    written = """
    # a comment
    engines: [{reference: {startup_timeout_s: 120}}]
    traffic: {arrivals: {concurrency: 4, kind: closed}, requests: 64}
    prompts: {kind: synthetic, output_tokens: {kind: fixed, value: 64}, prompt_tokens: 0x100}
    model: "m"
    name: t
    """
    assert loads(written).digest() == loads(MINIMAL).digest()


@pytest.mark.parametrize(
    "override",
    [
        "name=u",
        "model=n",
        "seeds.prompts=1",
        "seeds.schedule=1",
        "traffic.requests=65",
        "traffic.arrivals={kind: burst}",
        "measure.slo.ttft_ms=1",
        "measure.clock=packet",
        "request.temperature=0.1",
        "prompts={kind: synthetic, output_tokens: 63}",
        "engines=[reference, openai]",
    ],
)
def test_the_digest_changes_with_every_meaning(override: str) -> None:
    assert loads(MINIMAL, overrides=[override]).digest() != loads(MINIMAL).digest()


def test_a_spec_survives_its_own_json() -> None:
    for workload in shipped():
        spec = load(workload.name)
        again = WorkloadSpec.model_validate_json(spec.model_dump_json())
        assert again == spec
        assert again.digest() == spec.digest()


def test_a_spec_cannot_be_changed() -> None:
    spec = loads(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------ JSON Schema

VALIDATOR = Draft202012Validator(json_schema())


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json_schema())


def test_the_schema_accepts_what_is_shipped() -> None:
    for workload in shipped():
        VALIDATOR.validate(yaml.safe_load(workload.path.read_text()))
    VALIDATOR.validate(yaml.safe_load(template()))


@pytest.mark.parametrize(
    "fields",
    [
        {
            "engines": [
                "reference",
                {"openai": {"url": "http://h:1"}},
                {"triton": None},
                {"name": "vllm", "args": [1, "x"]},
            ]
        },
        {
            "prompts": {
                "kind": "synthetic",
                "prompt_tokens": 7,
                "output_tokens": {"kind": "empirical", "values": [1, 2]},
            }
        },
        {"traffic": {"arrivals": {"kind": "gamma", "rate": 3, "shape": 0.5}, "max_concurrency": 8}},
        {"request": {"stop": ["a"], "top_k": None, "seed": 3}, "tokenizer": None},
        {"engines": [{"openai": {"url": "http://h:1", "price": {"per_hour": 2, "currency": "USD"}}}, "reference"]},
    ],
)
def test_schema_and_loader_accept_the_same(fields: dict[str, Any]) -> None:
    data = {"name": "t", "model": "m", **fields}
    VALIDATOR.validate(data)
    loads(yaml.safe_dump(data))


@pytest.mark.parametrize(
    "fields",
    [
        {"traffic": {"arivals": {"kind": "burst"}}},
        {"traffic": {"arrivals": {"kind": "poisson", "rate": -1}}},
        {"traffic": {"arrivals": {"kind": "poisson"}}},
        {"traffic": {"arrivals": {"rate": 1}}},
        {"traffic": {"arrivals": {"kind": "closed", "concurrency": 1, "rate": 1}}},
        {"traffic": {"requests": 0}},
        {"engines": []},
        {"engines": [{"openai": {"urll": "x"}}]},
        {"prompts": {"kind": "synthetic", "prompt_tokens": 0}},
        {"name": "no blanks here"},
        {"engines": [{"openai": {"price": {"per_hour": -1, "currency": "USD"}}}]},
        {"engines": [{"openai": {"price": {"per_hour": 1, "currency": "dollars"}}}]},
        {"engines": [{"openai": {"price": {"per_hour": 1}}}]},
        {"seeds": None},
    ],
)
def test_schema_and_loader_refuse_the_same(fields: dict[str, Any]) -> None:
    data = {"name": "t", "model": "m", **fields}
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(WorkloadError):
        loads(yaml.safe_dump(data))


def test_prices_are_in_one_currency() -> None:
    engines = [
        {"reference": {"label": label, "price": {"per_hour": 1, "currency": currency}}}
        for label, currency in (("a", "USD"), ("b", "EUR"))
    ]
    with pytest.raises(WorkloadError, match=r"engines\.1\.price\.currency.*given EUR, and an engine before it USD"):
        loads(yaml.safe_dump({"name": "t", "model": "m", "engines": engines}))


def test_every_field_has_a_description() -> None:
    """What an editor shows beside a field; a union's `kind` speaks for itself."""
    for name, part in json_schema()["$defs"].items():
        if name == "JsonValue":  # pydantic's own: any JSON
            continue
        assert part.get("description"), name
        for field, node in part.get("properties", {}).items():
            if field != "kind":
                assert node.get("description") or "$ref" in node, f"{name}.{field}"
