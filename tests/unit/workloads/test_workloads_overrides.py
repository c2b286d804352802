"""`--set a.b.c=value` reaches any field, and says which override is at fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import load, loads
from llmbench.workloads.overrides import apply_override

TEXT = """\
name: t
model: m
engines: [reference, {openai: {url: "http://h:1", label: mine}}]
traffic: {requests: 9, arrivals: {kind: poisson, rate: 1}}
"""


def changed(*overrides: str) -> dict[str, Any]:
    return loads(TEXT, "w.yaml", overrides).model_dump(mode="json")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("traffic.arrivals.rate=8", ("traffic", "arrivals", "rate"), 8.0),
        (" traffic . requests =3", ("traffic", "requests"), 3),
        ("name=other", ("name",), "other"),
        ("measure.slo.ttft_ms=250", ("measure", "slo", "ttft_ms"), 250.0),
        ("prompts={kind: synthetic, prompt_tokens: 7}", ("prompts", "prompt_tokens", "value"), 7),
        ("request.stop=[a, b]", ("request", "stop"), ["a", "b"]),
        ("engines.1.url=http://h:2", ("engines", 1, "url"), "http://h:2"),
        ("engines[0].args=[--x]", ("engines", 0, "args"), ["--x"]),
        ("engines.mine.env.N=3", ("engines", 1, "env", "N"), "3"),
        ("engines.openai.startup_timeout_s=5", ("engines", 1, "startup_timeout_s"), 5.0),
        ("engines=[vllm]", ("engines", 0, "name"), "vllm"),
        ("description=a=b", ("description",), "a=b"),
    ],
)
def test_an_override_reaches_its_field(override: str, path: tuple[str | int, ...], value: object) -> None:
    data: Any = changed(override)
    for part in path:
        data = data[part]
    assert data == value


def test_later_overrides_win_and_nothing_else_changes() -> None:
    once = changed("traffic.requests=5")
    assert changed("traffic.requests=3", "traffic.requests=5") == once
    once["traffic"]["requests"] = 9
    assert once == changed()


def test_the_default_engine_can_be_overridden_where_none_is_given() -> None:
    spec = loads("name: t\nmodel: m\n", overrides=["engines.reference.url=http://h:1"])
    assert [(engine.name, engine.url) for engine in spec.engines] == [("reference", "http://h:1")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "traffic.arrivals.rate=-8",
            "--set traffic.arrivals.rate=-8: field 'traffic.arrivals.rate': given -8, allowed",
        ),
        ("traffic.request=3", "field 'traffic.request': unknown field; did you mean 'requests'?"),
        ("traffic.arrivals.kind=burst", "w.yaml:4:50: field 'traffic.arrivals.rate': unknown field"),
        (
            "measure.slo.ttft=1",
            "--set measure.slo.ttft=1: field 'measure.slo.ttft': unknown field; did you mean 'ttft_",
        ),
        ("rate", "--set rate: not an override; write it as a.b.c=value, e.g. traffic.arrivals.rate=8"),
        ("=3", "--set =3: not an override"),
        ("a..b=3", "--set a..b=3: not an override"),
        (
            "name.x=3",
            "--set name.x=3: field 'name' is 't' and has no fields of its own; set the whole of it, name='{…}'",
        ),
        ("model=", "--set model=: field 'model': given null, allowed: text (not empty)"),
        ("request.stop=[a", "--set request.stop=[a:1:3: not valid YAML"),
        ("engines.2.url=x", "--set engines.2.url=x: 'engines' has the indexes 0 to 1, given 2"),
        (
            "engines.miner.url=x",
            "'engines' is a list, given 'miner'; did you mean 'mine'? allowed: an index from 0 or on",
        ),
        ("name=!!python/name:os x", "the tag '!!python/name:os' is not supported"),
    ],
)
def test_a_wrong_override_is_quoted(override: str, message: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        changed(override)
    assert message in str(caught.value)


def test_a_mistake_in_the_file_is_not_blamed_on_an_override() -> None:
    with pytest.raises(WorkloadError) as caught:
        loads(TEXT.replace("requests: 9", "requests: -9"), "w.yaml", ["seeds.prompts=1"])
    assert str(caught.value).startswith("w.yaml:4:21: field 'traffic.requests': given -9")


def test_shipped_workloads_take_overrides(tmp_path: Path) -> None:
    spec = load("mixed", ["traffic.requests=2", "model=synthetic:llama-150m"])
    assert (spec.name, spec.traffic.requests, spec.model) == ("mixed", 2, "synthetic:llama-150m")
    assert spec.digest() != load("mixed").digest()


PARTS = st.sampled_from(
    ["traffic", "engines", "0", "1", "url", "prompts", "kind", "[0]", "[7]", "", "x", "mine", "rate"]
)
VALUES = st.sampled_from(["1", "", "[", "{a: 1}", "~", "x", "-1", "[1, 2]", "&a [*a]", "!t x", "{kind: burst}"])


@settings(max_examples=150, deadline=None)
@given(overrides=st.lists(st.tuples(st.lists(PARTS, max_size=4), VALUES), max_size=3))
def test_any_overrides_give_a_workload_or_a_workload_error(overrides: list[tuple[list[str], str]]) -> None:
    texts = [f"{'.'.join(parts)}={value}" for parts, value in overrides]
    try:
        said = f"w.yaml:{loads(TEXT, 'w.yaml', texts).digest()}"
    except WorkloadError as error:
        said = str(error)
    assert "w.yaml:" in said or any(f"--set {text}" in said for text in texts)


def test_mappings_on_the_way_are_made() -> None:
    data: dict[str, Any] = {"a": None}
    assert apply_override(data, "a.b.c=1").path == ("a", "b", "c")
    assert data == {"a": {"b": {"c": 1}}}
