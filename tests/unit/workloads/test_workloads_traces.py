"""A trace is replayed as it was recorded: its times, its lengths, and the beginnings that its prompts shared."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbench.workloads.arrivals import TraceArrivals, arrival_offsets_ns
from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import loads
from llmbench.workloads.prompts import build_prompts, build_warmup_prompts
from llmbench.workloads.spec import WorkloadSpec
from llmbench.workloads.tokenizer import FileTokenizer
from llmbench.workloads.traces import LAYOUTS, TraceFields, TraceLayout, read_trace

TRACES = Path(__file__).parents[2] / "data" / "traces"


def table(name: str) -> list[dict[str, str]]:
    with (TRACES / name).open() as file:
        return list(csv.DictReader(file))


def rows(name: str, layout: TraceLayout, num_requests: int) -> list[tuple[float, int, int]]:
    trace = TraceFields(path=str(TRACES / name), layout=layout)
    return [(row.time_s, row.prompt_tokens, row.output_tokens) for row in read_trace(trace, num_requests)]


def test_every_layout_in_the_schema_has_a_reader() -> None:
    assert set(get_args(TraceLayout)) == set(LAYOUTS)


@pytest.mark.parametrize("name", ["azure_2023.csv", "azure_2024.csv"])
def test_azure_rows_are_those_of_the_table(name: str) -> None:
    answered = [row for row in table(name) if row["GeneratedTokens"] != "0"]
    times = [datetime.fromisoformat(row["TIMESTAMP"]) for row in answered]
    expected = [
        ((time - times[0]).total_seconds(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for time, row in zip(times, answered, strict=True)
    ]
    read = rows(name, "azure", len(expected))
    assert [row[1:] for row in read] == [row[1:] for row in expected]
    assert [row[0] for row in read] == pytest.approx([row[0] for row in expected], abs=1e-6)


def test_burstgpt_rows_are_those_of_the_table_without_its_failures() -> None:
    answered = [row for row in table("burstgpt.csv") if row["Response tokens"] != "0"]
    assert len(answered) == 28
    start = int(answered[0]["Timestamp"])
    assert rows("burstgpt.csv", "burstgpt", 28) == [
        (int(row["Timestamp"]) - start, int(row["Request tokens"]), int(row["Response tokens"])) for row in answered
    ]


def test_mooncake_rows_are_those_of_the_file() -> None:
    lines = [json.loads(line) for line in (TRACES / "mooncake.jsonl").read_text().splitlines()]
    assert rows("mooncake.jsonl", "mooncake", len(lines)) == [
        (line["timestamp"] / 1000, line["input_length"], line["output_length"]) for line in lines
    ]


@pytest.mark.parametrize("speed", [1.0, 2.5, 0.1])
def test_replay_keeps_every_gap_by_the_speed(speed: float) -> None:
    arrivals = TraceArrivals(path=str(TRACES / "azure_2023.csv"), layout="azure", speed=speed)
    offsets = arrival_offsets_ns(arrivals, 30, seed=0)
    recorded = rows("azure_2023.csv", "azure", 30)
    assert offsets == tuple(round(time_s / speed * 1e9) for time_s, *_ in recorded)
    assert offsets[0] == 0
    assert offsets == arrival_offsets_ns(arrivals, 30, seed=1), "a recording has no luck"


@pytest.mark.parametrize(
    ("layout", "content", "message"),
    [
        ("azure", "", r"t:1: the trace has no column 'TIMESTAMP'; its columns are: none"),
        (
            "azure",
            "TIMESTAMP,ContextToken,GeneratedTokens\n",
            "no column 'ContextTokens'; did you mean 'ContextToken'?",
        ),
        (
            "azure",
            "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,3,4\n",
            "t:2: TIMESTAMP: given 'noon', allowed: a time",
        ),
        (
            "azure",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,x,4\n",
            "t:2: ContextTokens: given 'x'",
        ),
        (
            "azure",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,3\n",
            "t:2: the row ends before its col",
        ),
        (
            "burstgpt",
            "Timestamp,Request tokens,Response tokens\nnan,3,4\n",
            "t:2: Timestamp: given 'nan', allowed: a nu",
        ),
        ("burstgpt", "Timestamp,Request tokens,Response tokens\n1,-3,4\n", "t:2: Request tokens: given '-3'"),
        ("burstgpt", "Timestamp,Request tokens,Response tokens\n1,2.5,4\n", "t:2: Request tokens: given '2.5'"),
        (
            "burstgpt",
            "Timestamp,Request tokens,Response tokens\n9,3,4\n8,3,4\n",
            "t:3: this request came before the one",
        ),
        (
            "burstgpt",
            "Timestamp,Request tokens,Response tokens\n1,3,4\n1,3,0\n",
            "has 1 requests with an answer, and 2 ",
        ),
        ("burstgpt", "Timestamp,Request tokens,Response tokens\n1,3,99999999\n2,3,4\n", "t:2: a length above 10000000"),
        (
            "mooncake",
            '{"timestamp": 0, "input_length": 3}',
            "t:1: the row has no field 'output_length'; its fields are: '",
        ),
        ("mooncake", '{"timestamp": 0', "t:1: not valid JSON"),
        ("mooncake", "[]", "t:1: given \\[\\], allowed: a JSON object"),
        ("mooncake", '{"timestamp": true, "input_length": 3, "output_length": 1}', "t:1: timestamp: given true"),
        (
            "mooncake",
            '{"timestamp": 0, "input_length": 3, "output_length": 1, "hash_ids": 3}',
            "t:1: hash_ids: given 3",
        ),
    ],
)
def test_a_bad_trace_is_named_with_its_line(tmp_path: Path, layout: TraceLayout, content: str, message: str) -> None:
    (tmp_path / "t").write_text(content)
    with pytest.raises(WorkloadError, match=message):
        read_trace(TraceFields(path=str(tmp_path / "t"), layout=layout), 2)


def test_a_trace_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="nowhere: the trace cannot be read"):
        read_trace(TraceFields(path=str(tmp_path / "nowhere"), layout="azure"), 1)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for layout in LAYOUTS:
        with pytest.raises(WorkloadError, match="binary"):
            read_trace(TraceFields(path=str(tmp_path / "binary"), layout=layout), 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(alphabet='Timestamp,Request tokens\n0123456789.-"{}:[]', max_size=120))
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_any_file_is_a_trace_or_a_workload_error(tmp_path: Path, layout: TraceLayout, content: str) -> None:
    (tmp_path / "t").write_text(content)
    with pytest.raises(WorkloadError):
        read_trace(TraceFields(path=str(tmp_path / "t"), layout=layout), 1)


# ------------------------------------------------------------------------------------------------------------ prompts


def spec(name: str, layout: str, requests: int, **prompts: Any) -> WorkloadSpec:
    source = {"path": str(TRACES / name), "layout": layout}
    return WorkloadSpec.model_validate(
        {
            "name": "t",
            "model": "m",
            "prompts": {"kind": "trace", **source, **prompts},
            "traffic": {"requests": requests, "warmup_requests": 3, "arrivals": {"kind": "trace", **source}},
        }
    )


def test_prompts_have_the_recorded_lengths(tokenizer: FileTokenizer) -> None:
    planned = build_prompts(spec("azure_2023.csv", "azure", 20), tokenizer)
    recorded = rows("azure_2023.csv", "azure", 20)
    assert [(one.prompt_tokens, one.max_tokens) for one in planned] == [row[1:] for row in recorded]
    counted = [len(tokenizer.encode(one.prompt or "", add_special_tokens=True)) for one in planned]
    assert counted == [row[1] for row in recorded]
    assert len({one.prompt for one in planned}) == 20


def test_long_requests_can_be_cut(tokenizer: FileTokenizer) -> None:
    planned = build_prompts(spec("azure_2023.csv", "azure", 20, max_prompt_tokens=50, max_output_tokens=10), tokenizer)
    recorded = rows("azure_2023.csv", "azure", 20)
    assert [(one.prompt_tokens, one.max_tokens) for one in planned] == [
        (min(p, 50), min(o, 10)) for _, p, o in recorded
    ]


def test_mooncake_prompts_share_exactly_the_recorded_blocks(tokenizer: FileTokenizer) -> None:
    """Two prompts agree for as many whole blocks as their ids do, and then part within the next few tokens."""
    lines = [json.loads(line) for line in (TRACES / "mooncake.jsonl").read_text().splitlines()]
    planned = build_prompts(spec("mooncake.jsonl", "mooncake", len(lines)), tokenizer)
    ids = [tokenizer.encode(one.prompt or "") for one in planned]
    assert [one.prompt_tokens for one in planned] == [line["input_length"] for line in lines]
    num_pairs_sharing = 0
    for (one, line), (other, other_line) in combinations(zip(ids, lines, strict=True), 2):
        blocks = common(line["hash_ids"], other_line["hash_ids"])
        num_pairs_sharing += blocks > 0
        assert blocks * 512 <= common(one, other) < blocks * 512 + 16
    assert num_pairs_sharing > 20


def test_rounds_and_warmup_do_not_repeat_a_trace_s_words(tokenizer: FileTokenizer) -> None:
    workload = spec("mooncake.jsonl", "mooncake", 6)
    first, second = (build_prompts(workload, tokenizer, index) for index in range(2))
    warmup = build_warmup_prompts(workload, tokenizer)
    assert [one.prompt_tokens for one in warmup] == [one.prompt_tokens for one in first[:3]]
    beginnings = [
        {tuple(tokenizer.encode(one.prompt or "")[:8]) for one in prompts} for prompts in (first, second, warmup)
    ]
    assert all(one.isdisjoint(other) for one, other in combinations(beginnings, 2))


def common(one: list[int], other: list[int]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def test_a_trace_s_path_starts_from_the_workload(tmp_path: Path) -> None:
    text = "name: t\nmodel: m\ntraffic: {requests: 2, arrivals: {kind: trace, layout: azure, path: a.csv}}\n"
    arrivals = loads(text, folder=tmp_path).traffic.arrivals
    assert isinstance(arrivals, TraceArrivals)
    assert arrivals.path == str(tmp_path / "a.csv")
