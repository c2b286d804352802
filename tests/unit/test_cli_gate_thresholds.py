"""What `llmbench gate` says of a thresholds file that is wrong: line, field and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.harness.cli.gate_thresholds import read_thresholds
from llmbench.harness.errors import ConfigError
from llmbench.results.gate import GateSpec
from llmbench.workloads.errors import WorkloadError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "figures:\n  tpot_p55: {}",
            "gate.yaml:2:3: field 'figures.tpot_p55': no figure is called 'tpot_p55'; did you mean 'tpot_p50'? There",
        ),
        ("figures: {}", "gate.yaml:1:10: field 'figures': a gate without a figure passes everything; name one"),
        (
            "figures:\n  tpot_p50: {relative: -0.1}",
            "gate.yaml:2:24: field 'figures.tpot_p50.relative': given -0.1, allowed: a number >= 0, or null",
        ),
        ("figures:\n  tpot_p50: {absolute: .nan}", "field 'figures.tpot_p50.absolute': given nan, allowed: a number"),
        ("figures:\n  tpot_p50: {relative: .inf}", "field 'figures.tpot_p50.relative': given inf, allowed: a number"),
        (
            "figures:\n  goodput: {relativ: 0.1}",
            "gate.yaml:2:13: field 'figures.goodput.relativ': unknown field; did you mean 'relative'? allowed: ",
        ),
        ("figures: [tpot_p50]", "gate.yaml:1:10: field 'figures': given ['tpot_p50'], allowed: a mapping"),
        ("alpha: 2", "gate.yaml:1:8: field 'alpha': given 2, allowed: a number > 0 and < 0.5"),
        ("alph: 0.1", "gate.yaml:1:1: field 'alph': unknown field; did you mean 'alpha'? allowed: figures, alpha"),
        ("[1]", "gate.yaml:1:1: the file holds a list, allowed: a mapping with the fields figures, alpha"),
        ("figures: {tpot_p50", "gate.yaml:1:19: not valid YAML"),
    ],
)
def test_thresholds_that_are_wrong_say_where_and_what_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gate.yaml").write_text(text)
    with pytest.raises(WorkloadError) as refused:
        read_thresholds(Path("gate.yaml"))
    assert said in str(refused.value)
    assert "pydantic" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "gate.yaml"
    with pytest.raises(ConfigError, match=r"--thresholds .*gate\.yaml cannot be read: No such file"):
        read_thresholds(missing)


def test_comments_alone_ask_for_the_default(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text("# nothing yet\n")
    assert read_thresholds(path) == GateSpec() == read_thresholds(None)
    path.write_text("figures:\n  tpot_p50: {relative: 0.1}\n")
    assert read_thresholds(path).required == {"tpot_p50"}
