"""A workload is read as it is meant, and every mistake is named with its place, what was given and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.results.units import MIN_ROUNDS
from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import load, loads, shipped, template
from llmbench.workloads.spec import WorkloadSpec

HEAD = "name: t\nmodel: m\n"


def problem(text: str, overrides: tuple[str, ...] = ()) -> str:
    """What the user is told about `text`, which stands on line 3."""
    with pytest.raises(WorkloadError) as caught:
        loads(HEAD + text, "w.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tarffic: {}", "w.yaml:3:1: field 'tarffic': unknown field; did you mean 'traffic'? allowed: name, "),
        (
            "traffic:\n  arrivals:\n    kind: poisson\n    rte: 1",
            "w.yaml:6:5: field 'traffic.arrivals.rte': unknown field; did you mean 'rate'? allowed: kind, rate",
        ),
        (
            "measure: {slo: {ttft: 4}}",
            "w.yaml:3:17: field 'measure.slo.ttft': unknown field; did you mean 'ttft_ms'? "
            "allowed: ttft_ms, tpot_ms, e2e_ms",
        ),
        (
            "engines: [reference, {openai: {urll: x}}]",
            "w.yaml:3:32: field 'engines.1.urll': unknown field; did you mean 'url'? allowed: label, url, ",
        ),
    ],
)
def test_a_typo_is_answered_with_the_nearest_field(text: str, message: str) -> None:
    assert message in problem(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("traffic: {requests: 2.5}", "3:21: field 'traffic.requests': given 2.5, allowed: a whole number from 1 to"),
        ("traffic: {requests: true}", "3:21: field 'traffic.requests': given true, allowed: a whole number"),
        ("traffic: {requests: 1_000}", "3:21: field 'traffic.requests': given '1_000', allowed: a whole number"),
        ("traffic: 3", "3:10: field 'traffic': given 3, allowed: a mapping with the fields arrivals, "),
        ("traffic:", "3:9: field 'traffic': given null, allowed: a mapping with the fields arrivals, "),
        ("request: {stream: yes}", "3:19: field 'request.stream': given 'yes', allowed: true or false"),
        ("request: {api: chatt}", "3:16: field 'request.api': given 'chatt'; did you mean 'chat'? allowed: comp"),
        ("request: {stop: [1]}", "3:18: field 'request.stop.0': given 1, allowed: text (not empty); put it in quotes"),
        ("description: 3", "3:14: field 'description': given 3, allowed: text; put it in quotes"),
        ("engines: []", "3:10: field 'engines': given [], allowed: a list […] with at least one entry"),
        (
            "engines: [{openai: {url: 'h:80'}}]",
            "3:26: field 'engines.0.url': given 'h:80', allowed: http://host:port/path",
        ),
        (
            "engines: [{openai: {url: 'http://u:secret@h'}}]",
            "3:26: field 'engines.0.url': a workload holds no passwords",
        ),
        ("engines: [a, a]", "3:14: field 'engines.1': a second engine is called 'a': give each its own `label`"),
        (
            "prompts: {kind: synthetic, prompt_tokens: 1.5}",
            "3:43: field 'prompts.prompt_tokens': given 1.5, allowed: a whole number from 1 to 10000000, or a mapping",
        ),
        ("prompts: {kind: jsonl}", "3:10: field 'prompts.path': this field is required; allowed: text (not empty)"),
        (
            "prompts: {kind: synthetic, prompt_tokens: {kind: uniform, min: 9, max: 3}}",
            "3:64: field 'prompts.prompt_tokens.min': given 9, allowed: at most max, which is 3",
        ),
        (
            "traffic: {arrivals: {kind: closed, concurrency: 4}, max_concurrency: 3}",
            "3:70: field 'traffic.max_concurrency': a closed loop has its limit in arrivals.concurrency",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(text: str, message: str) -> None:
    said = problem(text)
    assert f"w.yaml:{message}" in said
    assert "\n" not in said, "one mistake, one line"
    assert "secret" not in said


@pytest.mark.parametrize("rate", ["-1", "0", "-0.0", ".inf", "-.inf", ".nan", "1e9", "'8'", "null", "true"])
@pytest.mark.parametrize("kind", ["constant", "poisson", "gamma"])
def test_no_rate_but_a_positive_number_is_taken(kind: str, rate: str) -> None:
    said = problem(f"traffic: {{arrivals: {{rate: {rate}, kind: {kind}}}}}")
    assert said.startswith("w.yaml:3:28: field 'traffic.arrivals.rate': given ")
    assert said.endswith(", allowed: a number > 0 and <= 10000000")


def test_every_mistake_is_named_at_once() -> None:
    said = problem(
        "traffic:\n  requests: -1\n  arrivals: {kind: ramp, start_rate: -1, end_rate: 0}\nseeds: {prompt: 1}"
    )
    assert sorted(line.split(": ")[0] for line in said.splitlines()) == [
        "w.yaml:4:13",
        "w.yaml:5:38",
        "w.yaml:5:52",
        "w.yaml:6:9",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "traffic: {arrivals: {kind: poison, rate: 1}}",
            "3:28: field 'traffic.arrivals.kind': given 'poison'; did you mean 'poisson'? allowed: burst, closed, ",
        ),
        (
            "traffic: {arrivals: {rate: 1}}",
            "3:21: field 'traffic.arrivals.kind': this field is required; allowed: burst, closed, constant, ",
        ),
        ("traffic: {arrivals: {kind: null}}", "3:28: field 'traffic.arrivals.kind': given null; allowed: burst, "),
        (
            "traffic: {arrivals: poisson}",
            "3:21: field 'traffic.arrivals': given 'poisson', allowed: a mapping with kind: burst | closed | ",
        ),
        ("prompts: {kind: sharegtp}", "3:17: field 'prompts.kind': given 'sharegtp'; did you mean 'sharegpt'? allow"),
        ("prompts: {}", "3:10: field 'prompts.kind': this field is required; allowed: "),
    ],
)
def test_a_union_asks_for_its_kind(text: str, message: str) -> None:
    assert f"w.yaml:{message}" in problem(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "w.yaml: the file is empty; `llmbench workloads init` writes one"),
        ("# nothing\n", "w.yaml: the file is empty"),
        ("- name: t", "w.yaml:1:1: the file holds a list, allowed: a mapping with the fields name, description, "),
        ("just text", "w.yaml:1:1: the file holds a single value, allowed: a mapping"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(content: str, message: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        loads(content, "w.yaml")
    assert str(caught.value).startswith(message)


def test_required_fields_are_asked_for() -> None:
    with pytest.raises(WorkloadError) as caught:
        loads("description: x", "w.yaml")
    assert [problem.field for problem in caught.value.problems] == ["field 'name'", "field 'model'"]
    assert all("this field is required" in problem.message for problem in caught.value.problems)


def test_engines_may_be_names_or_mappings() -> None:
    spec = loads(
        HEAD
        + "engines:\n- reference\n- openai: {url: 'http://h:1', label: mine, env: {N: 2}}\n- name: vllm\n- triton:\n"
    )
    assert [(engine.name, engine.label, engine.url) for engine in spec.engines] == [
        ("reference", "reference", None),
        ("openai", "mine", "http://h:1"),
        ("vllm", "vllm", None),
        ("triton", "triton", None),
    ]
    assert spec.engines[1].env == {"N": "2"}


# --------------------------------------------------------------------------------------------------- finding the file


def test_relative_paths_start_from_the_workload_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.txt").touch()
    file = tmp_path / "w.yaml"
    file.write_text(
        "name: t\nmodel: models/tiny\ntokenizer: tok\nprompts: {kind: text, path: a.txt}\n"
        "engines: [{openai: {model: ./served, url: 'http://h:1'}}]\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    spec = load(file)
    assert spec.model == str(tmp_path / "models" / "tiny")
    assert spec.tokenizer == str(tmp_path / "tok")
    assert getattr(spec.prompts, "path", None) == str(tmp_path / "a.txt")
    assert spec.engines[0].model == str(tmp_path / "served")
    # An override is typed in the working directory, and that is where its paths start.
    assert load(file, ["tokenizer=tok"]).tokenizer == str(tmp_path / "elsewhere" / "tok")


@pytest.mark.parametrize("model", ["synthetic:llama-20m", "meta-llama/Llama-3.1-8B", "gpt-4o"])
def test_a_model_that_is_no_folder_keeps_its_name(tmp_path: Path, model: str) -> None:
    assert loads(f"name: t\nmodel: {model}\n", folder=tmp_path).model == model


def test_a_missing_file_names_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        WorkloadError, match=r"^mixd: there is no such file and no shipped workload .*; did you mean 'm"
    ):
        load("mixd")
    with pytest.raises(WorkloadError, match=r"Shipped: .*decode_heavy, .*mixed, .*prefill_heavy, .*quickstart"):
        load("no/such.yaml")
    with pytest.raises(WorkloadError, match="is a folder, allowed: a workload's YAML file"):
        load(tmp_path)
    with pytest.raises(WorkloadError):
        load("nul\0byte")


def test_a_file_of_another_encoding_or_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_bytes(b"name: t\nmodel: m\ndescription: \xe9t\xe9\n")
    with pytest.raises(WorkloadError, match=r"w\.yaml:3:14: the byte 0xe9 is not UTF-8; save the file in UTF-8"):
        load(file)
    file.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(WorkloadError, match="allowed: 1048576; keep data in files of its own"):
        load(file)


# ------------------------------------------------------------------------------------------ what comes with llmbench


def test_the_five_first_workloads_are_shipped_and_say_what_they_stress() -> None:
    found = {workload.name: workload for workload in shipped()}
    assert {"quickstart", "prefill_heavy", "decode_heavy", "mixed", "streaming"} <= set(found)
    for name, workload in found.items():
        spec = load(name)
        assert spec.name == name
        assert spec.description == workload.description
        assert len(workload.stresses) > 40
        assert load(workload.path) == spec


def test_the_template_holds_every_field_at_a_value_that_is_allowed(tmp_path: Path) -> None:
    spec = loads(template(), folder=tmp_path)
    assert spec.measure.rounds >= MIN_ROUNDS, "a first run of one's own is enough for a verdict"
    data = _yaml(template())
    assert set(data) == set(WorkloadSpec.model_fields)
    for part in ("request", "traffic", "measure", "seeds"):
        assert set(data[part]) == set(type(getattr(spec, part)).model_fields), part


def _yaml(text: str) -> dict[str, Any]:
    import yaml

    data = yaml.safe_load(text)
    assert isinstance(data, dict)
    return data


def test_a_file_that_is_not_there_is_named_with_its_field_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: t\nmodel: m\nprompts: {kind: text, path: nowhere.txt}\n")
    with pytest.raises(WorkloadError) as refused:
        load(path)
    assert str(refused.value) == f"{path}:3:29: field 'prompts.path': there is no file '{tmp_path}/nowhere.txt'"
    with pytest.raises(WorkloadError, match=r"^--set prompts\.path=.*: field 'prompts\.path': there is no file"):
        load(path, ["prompts.path=elsewhere.txt"])
    (tmp_path / "nowhere.txt").write_text("here")
    assert load(path).prompts.kind == "text"


# ---------------------------------------------------------------------------------------------- whatever is given

WORDS = st.text(alphabet="ab:é0-", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(WorkloadSpec.model_fields)), JSON, max_size=5)


@settings(max_examples=60, deadline=None)
@given(fields=FIELDS)
def test_any_data_is_a_workload_or_a_workload_error(fields: dict[str, Any]) -> None:
    import yaml

    text = yaml.safe_dump(fields, allow_unicode=True)
    try:
        loads(text, "w.yaml")
    except WorkloadError as error:
        said = str(error)
    else:
        said = "w.yaml is a workload"
    assert said.startswith("w.yaml")


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab:{}[]-&*!#|>'\"%@,? \t\n\x00\u2028é0.", max_size=60))
def test_any_text_is_a_workload_or_a_workload_error(text: str) -> None:
    with pytest.raises(WorkloadError, match=r"^w\.yaml"):
        loads(text, "w.yaml")
