"""`llmbench workloads`: what is printed can be used as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmbench.harness.cli.workloads import app
from llmbench.harness.errors import ConfigError
from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import json_schema, load, shipped


def ran(*arguments: str) -> str:
    result: Result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_list_says_what_each_stresses() -> None:
    said = " ".join(ran("list").split())
    for workload in shipped():
        assert workload.description in said
        assert workload.stresses in said


def test_show_prints_the_file_as_it_is(tmp_path: Path) -> None:
    for workload in shipped():
        assert ran("show", workload.name) == workload.path.read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text("# mine: é\nname: t\nmodel: m\n", encoding="utf-8")
    assert ran("show", str(mine)) == mine.read_text(encoding="utf-8")


def test_validate_says_what_is_asked() -> None:
    said = ran("validate", "mixed", "--set", "traffic.sweep=[1, 4]", "--set", "measure.rounds=3")
    digest = load("mixed", ["traffic.sweep=[1, 4]", "measure.rounds=3"]).digest()
    assert said.splitlines() == [
        f"mixed: valid, digest {digest[:12]}",
        "40 requests at poisson 1/s, 40 requests at poisson 4/s; 3 times on reference",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["traffic.arrivals.concurrency=64"], "closed 64: a round's 24 requests fill 24 of 64 slots"),
        (["traffic.sweep=[8, 32]"], "closed 32: a round's 24 requests fill 24 of 32 slots"),
        (
            ["prompts={kind: conversations, turns: 4}", "traffic.arrivals.concurrency=8"],
            "closed 8: a round's 6 conversations fill 6 of 8 slots",
        ),
        (["traffic.arrivals.concurrency=24"], None),
        (["traffic.arrivals={kind: poisson, rate: 64}"], None),
    ],
    ids=["wide", "in-a-sweep", "conversations", "just-filled", "open"],
)
def test_validate_tells_of_a_closed_loop_that_no_round_fills(changes: list[str], said: str | None) -> None:
    overrides = [argument for change in changes for argument in ("--set", change)]
    told = ran("validate", "quickstart", *overrides).splitlines()[2:]
    assert len(told) == (said is not None)
    if said is not None:
        assert told[0].startswith(said)
        assert told[0].endswith("raise traffic.requests, or lower the concurrency.")


def test_validate_tells_of_limits_that_cannot_be_judged() -> None:
    said = ran("validate", "quickstart", "--set", "request.stream=false").splitlines()[2:]
    limits = "measure.slo.ttft_ms and measure.slo.tpot_ms cannot be judged without request.stream"
    assert said == [f"{limits}, so there is no goodput; limit e2e_ms."]
    e2e_alone = ("--set", "request.stream=false", "--set", "measure.slo={e2e_ms: 500}")
    assert len(ran("validate", "quickstart", *e2e_alone).splitlines()) == 2


def test_validate_names_the_mistake() -> None:
    with pytest.raises(WorkloadError, match=r"field 'traffic\.arrivals\.rate': given -1"):
        ran("validate", "mixed", "--set", "traffic.arrivals.rate=-1")


def test_init_writes_a_workload_with_every_field_or_a_shipped_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    assert str(mine) in ran("init", str(mine))
    assert load(mine).name == "my-workload"
    with pytest.raises(ConfigError, match="exists already"):
        ran("init", str(mine), "--from", "mixed")
    ran("init", str(mine), "--from", "mixed", "--force")
    assert load(mine) == load("mixed")
    with pytest.raises(ConfigError, match="is no folder"):
        ran("init", str(tmp_path / "nowhere" / "mine.yaml"))
    with pytest.raises(WorkloadError, match="did you mean 'mixed'"):
        ran("init", str(tmp_path / "other.yaml"), "--from", "mixd")


def test_schema_is_json_for_an_editor() -> None:
    assert json.loads(ran("schema")) == json_schema()
