"""The thresholds file: which figures count, by how much they may be worse, and that none it names is passed over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gated_runs import requests

from llmbench.results.comparison_set import compare_engines, compare_sides
from llmbench.results.gate import GateResult, GateSpec, confirmed, judge_gate
from llmbench.results.manifest import EngineManifest
from llmbench.results.matching import Side


def judged_by(spec: GateSpec, subject: Side, baseline: Side) -> GateResult:
    compared = compare_sides([subject], baseline, margins=spec.margins(), required=spec.required, alpha=spec.alpha)
    return judge_gate(compared, required=spec.required)


def test_thresholds_restrict_and_loosen(measured) -> None:
    spec = GateSpec.model_validate({"figures": {"tpot_p50": {"relative": 0.2}}})
    result = judged_by(spec, measured(1, itl=5.5), measured(2))
    assert {case.comparison.spec.name for case in result.cases} == {"tpot_p50"}
    assert result.verdict == "passed"
    tight = GateSpec.model_validate({"figures": {"tpot_p50": {"relative": 0.05}}})
    assert judged_by(tight, measured(1, itl=5.5), measured(2)).verdict == "failed"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("goodput", "have no goodput"),  # neither run has objectives
        ("ttft_p99", "needs 299 samples, has 240"),
    ],
)
def test_a_figure_that_was_asked_for_is_tested_or_there_is_no_green(measured, named: str, why: str) -> None:
    # The gate that was read declared a tolerance for goodput and never evaluated it.
    spec = GateSpec.model_validate({"figures": {"tpot_p50": {}, named: {}}})
    result = judged_by(spec, measured(1), measured(2))
    assert result.verdict == "undecided"
    [lacking] = result.lacking
    assert lacking.comparison.spec.name == named
    assert why in lacking.why
    assert judged_by(spec, measured(1, itl=5.5), measured(2)).verdict == "failed"


def test_nobody_asked_for_what_the_default_cannot_test(measured) -> None:
    result = judged_by(GateSpec(), measured(1), measured(2))
    assert result.verdict == "passed"
    assert result.lacking == ()
    assert "goodput" not in {case.comparison.spec.name for case in result.cases}


def test_a_second_look_at_one_figure_does_not_excuse_another_that_was_not_tested(measured) -> None:
    spec = GateSpec.model_validate({"figures": {"tpot_p50": {}, "ttft_p99": {}}})
    first = judged_by(spec, measured(1, itl=5.5), measured(2))
    only_suspects = GateSpec.model_validate({"figures": {"tpot_p50": {}}})
    again = judged_by(only_suspects, measured(3), measured(2))
    assert confirmed(first, again).verdict == "undecided"
    assert confirmed(replace(first, required=frozenset()), again).verdict == "passed"


def test_what_was_asked_for_of_engines_of_one_run_is_tested_too(measured) -> None:
    engines = (EngineManifest(label="a", name="reference"), EngineManifest(label="b", name="reference"))
    side = measured(0, rows=requests(1, engine="a") + requests(1, engine="b"), run_fields={"engines": engines})
    spec = GateSpec.model_validate({"figures": {"tpot_p50": {}, "goodput": {}}})
    compared = compare_engines(side, "a", margins=spec.margins(), required=spec.required)
    assert judge_gate(compared, required=spec.required).verdict == "undecided"
