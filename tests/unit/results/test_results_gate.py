"""The gate: red for what is worse, green for what is not, and neither for what cannot be compared.

Each fault of the gates that were read before this one was written has its test here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gated_runs import RIG, WORKLOAD, failed_figures, judged, requests
from made_runs import Entry, MakeRun, entry

from llmbench.results.baseline import open_side, read_baseline, to_json
from llmbench.results.comparison_set import ComparisonSet, compare_engines, compare_sides
from llmbench.results.errors import RunError
from llmbench.results.gate import confirmed, judge_gate
from llmbench.results.manifest import EngineManifest
from llmbench.results.matching import Side, side_of
from llmbench.results.noise import noise_floor


def test_the_same_again_is_green(measured) -> None:
    result = judged(measured(1), measured(2))
    assert result.verdict == "passed"
    assert {case.outcome for case in result.cases} <= {"passed", "undecided"}


def test_ten_percent_of_tpot_is_red(measured) -> None:
    result = judged(measured(1, itl=5.5), measured(2))
    assert result.verdict == "failed"
    assert {"tpot_p50", "itl_p50"} <= failed_figures(result)
    assert "ttft_p50" not in failed_figures(result)


def test_one_percent_under_the_margin_is_green(measured) -> None:
    assert judged(measured(1, itl=5.05, ttft=20.2), measured(2)).verdict == "passed"


def test_a_change_in_the_tail_alone_is_red(measured) -> None:
    baseline, subject = measured(2, num=120, slow_tail=30), measured(1, num=120, slow_tail=60)
    result = judged(subject, baseline)
    assert "ttft_p99" in failed_figures(result)
    assert "ttft_p50" not in failed_figures(result)


def test_what_is_not_slower_again_is_excused_and_what_is_stays_red(measured) -> None:
    first = judged(measured(1, itl=5.5), measured(2))
    assert first.verdict == "failed"
    assert confirmed(first, judged(measured(3), measured(2))).verdict == "passed"
    again = confirmed(first, judged(measured(3, itl=5.5), measured(2)))
    assert again.verdict == "failed"
    assert {"tpot_p50", "itl_p50"} <= failed_figures(again)


def test_a_second_measurement_that_says_nothing_excuses_nothing(measured) -> None:
    first = judged(measured(1, itl=5.5), measured(2))
    too_few = confirmed(first, judged(measured(3, rounds=1), measured(2, rounds=1)))
    assert too_few.verdict == "undecided"
    assert any("too little of it the second time" in case.why for case in too_few.cases)
    invalid = measured(4, run_fields={"invalid": ("Requests were sent late.",)})
    refused = confirmed(first, judged(invalid, measured(2)))
    assert refused.verdict == "not comparable"
    assert "Requests were sent late" in refused.reasons[0]


def test_base_and_head_measured_again_in_one_run_confirm_by_other_labels(make_run: MakeRun, measured) -> None:
    first = judged(measured(1, itl=5.5), measured(2))

    def turns(head_itl: float) -> Side:
        rows = [*requests(5, engine="base"), *requests(6, itl=head_itl, engine="head")]
        return measured(
            0,
            rows=rows,
            run_fields={
                "engines": [
                    EngineManifest(label="base", name="simulated"),
                    EngineManifest(label="head", name="simulated"),
                ]
            },
        )

    assert confirmed(first, judge_gate(compare_engines(turns(5), "base"))).verdict == "passed"
    assert confirmed(first, judge_gate(compare_engines(turns(5.5), "base"))).verdict == "failed"


def test_an_improvement_is_green_and_said(measured) -> None:
    result = judged(measured(1, itl=4), measured(2))
    assert result.verdict == "passed"
    assert "improved" in {case.outcome for case in result.cases}


def test_a_missing_metric_is_no_improvement(measured, make_run: MakeRun) -> None:
    # One token each: no TPOT and no ITL. The gate that counted a missing value as 0 ms would call this faster.
    single = [
        entry(index, due=100.0 * index, tokens=[(100.0 * index + 20, 1)], round=number, output_tokens=1)
        for number in range(6)
        for index in range(40)
    ]
    subject = side_of(make_run(single, workload=WORKLOAD, environment=RIG))
    result = judged(subject, measured(2))
    assert {"tpot_p50", "itl_p50"} <= failed_figures(result)
    assert any("is gone" in case.why for case in result.failed)


def test_a_missing_level_is_not_skipped(measured) -> None:
    subject, baseline = measured(1), measured(2, level="closed 8")
    result = judged(subject, baseline)
    assert result.verdict == "not comparable"
    assert any("closed 8" in reason for reason in result.reasons)
    assert any("closed 1" in reason for reason in result.reasons)


@pytest.mark.parametrize("gone_from", ["head", "base"])
@pytest.mark.parametrize("what", ["level", "engine"])
def test_one_level_or_engine_that_is_missing_is_not_skipped_beside_others_that_match(
    measured, gone_from: str, what: str
) -> None:
    engines = tuple(EngineManifest(label=label, name="reference") for label in "ab")
    more = {"level": {"level": "closed 8"}, "engine": {"engine": "b"}}[what]
    rows = [*requests(1), *requests(2, **more)]
    both = measured(0, rows=rows, run_fields={"engines": engines})
    alone = measured(0, rows=requests(3), run_fields={"engines": engines})
    result = judged(*((alone, both) if gone_from == "head" else (both, alone)))
    assert result.verdict == "not comparable"
    [reason] = result.reasons
    name = "a at closed 8" if what == "level" else "b at closed 1"
    assert reason.startswith(f"{name} is in {both.name} and not in {alone.name}")


def test_a_baseline_of_zero_is_named_and_not_passed_over(measured) -> None:
    # Tokens that all come at once are 0 ms apart.
    result = judged(measured(1), measured(2, itl=0))
    undecided = {case.comparison.spec.name: case.why for case in result.cases if case.outcome == "undecided"}
    assert {"tpot_p50", "itl_p50"} <= undecided.keys()
    assert "may be 0, so there is no ratio to it" in undecided["itl_p50"]
    assert "failed" not in undecided["itl_p50"]


def test_fewer_requests_are_not_comparable(measured) -> None:
    result = judged(measured(1, num=20), measured(2))
    assert result.verdict == "not comparable"
    assert any("20 here, 40 in the baseline" in reason for reason in result.reasons)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": RIG | {"cpu": "Another CPU"}}, "Hardware differs: cpu is Another CPU"),
        ({"environment": RIG | {"gpus": [{"name": "H100"}]}}, "Hardware differs: gpus"),
        ({"workload": WORKLOAD | {"traffic": {"requests": 50}}}, "Workload differs: traffic.requests is 50"),
        ({"invalid": ("The machine was asleep.",)}, "is invalid: The machine was asleep."),
        ({"engines": (EngineManifest(label="a", name="reference", model="other"),)}, "the model differs"),
        ({"engines": (EngineManifest(label="a", name="reference", details={"dtype": "int8"}),)}, "the dtype differs"),
    ],
)
def test_what_is_unlike_is_refused(measured, changes: dict, said: str) -> None:
    engine = EngineManifest(label="a", name="reference", model="m", details={"dtype": "bfloat16"})
    baseline = measured(2, run_fields={"engines": (engine,)})
    subject = measured(1, run_fields={"engines": (engine,)} | changes)
    result = judged(subject, baseline)
    assert result.verdict == "not comparable"
    assert any(said in reason for reason in result.reasons)
    insisted = judged(subject, baseline, allow_unlike=True)
    assert insisted.verdict == "passed"
    assert any(said in note for note in insisted.notes)


def test_the_folder_of_the_checkout_is_no_difference(measured, tmp_path: Path) -> None:
    def at(folder: str, name: str = "prompts.txt") -> dict:
        asked = {
            "kind": "text",
            "path": f"{folder}/{name}",
            "output_tokens": {"kind": "trace", "path": f"{folder}/n.csv"},
        }
        populations = [{"prompts": {"kind": "text", "path": f"{folder}/p.txt"}}]
        return {"workload": WORKLOAD | {"prompts": asked | {"populations": populations}, "tokenizer": f"{folder}/t"}}

    baseline = measured(2, run_fields=at("/home/someone/repository"))
    (tmp_path / "baseline.json").write_text(to_json(baseline))
    assert "someone" not in (tmp_path / "baseline.json").read_text()
    for side in (baseline, read_baseline(tmp_path / "baseline.json")):
        result = judged(measured(1, run_fields=at("/builds/4711")), side)
        assert (result.verdict, result.reasons) == ("passed", ())
    other = judged(measured(1, run_fields=at("/builds/4711", "others.txt")), baseline)
    assert any("prompts.path is others.txt" in reason for reason in other.reasons)


def test_an_unfinished_run_is_refused(make_run: MakeRun, measured) -> None:
    subject = side_of(make_run(requests(1), finish=False, workload=WORKLOAD, environment=RIG))
    assert judged(subject, measured(2)).verdict == "not comparable"


def test_all_requests_failed_is_red(measured) -> None:
    result = judged(measured(1, ok=False), measured(2))
    assert result.verdict == "failed"
    assert {"ttft_p50", "success_share", "output_throughput"} <= failed_figures(result)


def test_some_requests_failed_is_red_by_success(measured, make_run: MakeRun) -> None:
    rows = requests(1)
    broken = [
        entry(record.index, due=(record.due_ns / 1e6) - 7_000_000, round=record.round, tokens=[], ok=False)
        if record.index % 5 == 0
        else (record, chunks)
        for record, chunks in rows
    ]
    result = judged(side_of(make_run(broken, workload=WORKLOAD, environment=RIG)), measured(2))
    assert "success_share" in failed_figures(result)


def test_a_baseline_that_failed_is_no_zero_to_beat(measured) -> None:
    result = judged(measured(1), measured(2, ok=False))
    assert "failed" not in {case.outcome for case in result.cases}
    assert "improved" in {case.outcome for case in result.cases}


def test_one_round_decides_nothing(measured) -> None:
    result = judged(measured(1, rounds=1, itl=50), measured(2, rounds=1))
    assert result.verdict == "undecided"
    assert any("needs 4 rounds" in case.why for case in result.cases)


def test_engines_of_one_run_are_paired(make_run: MakeRun) -> None:
    engines = (EngineManifest(label="a", name="reference"), EngineManifest(label="b", name="reference"))
    rows = requests(1, engine="a") + requests(1, engine="b", itl=5.5)
    side = side_of(make_run(rows, workload=WORKLOAD, environment=RIG, engines=engines))
    compared = compare_engines(side, "a")
    by_name = {each.spec.name: each for each in compared.comparisons}
    assert by_name["tpot_p50"].verdict == "slower"
    assert by_name["tpot_p50"].paired
    assert by_name["ttft_p50"].verdict == "no difference shown"
    with pytest.raises(RunError, match="did not measure 'c'; it has a, b"):
        compare_engines(side, "c")


@pytest.mark.parametrize("lacks", ["a", "b"])
def test_a_level_that_one_engine_of_a_run_lacks_is_not_skipped(measured, lacks: str) -> None:
    engines = (EngineManifest(label="a", name="reference"), EngineManifest(label="b", name="reference"))
    has = "b" if lacks == "a" else "a"
    rows = [*requests(1, engine="a"), *requests(2, engine="b"), *requests(3, engine=has, level="closed 8")]
    result = judge_gate(compare_engines(measured(0, rows=rows, run_fields={"engines": engines}), "a"))
    assert result.verdict == "not comparable"
    assert result.reasons == (f"{has} was measured at closed 8 and {lacks} was not.",)


def test_one_engine_alone_has_nothing_to_be_compared_with(measured) -> None:
    with pytest.raises(RunError, match="name a second run"):
        compare_engines(measured(1))


def test_a_baseline_file_decides_like_the_run_it_came_from(measured, tmp_path: Path) -> None:
    baseline, subject = measured(2), measured(1, itl=5.4)
    path = tmp_path / "baseline.json"
    path.write_text(to_json(baseline))
    stored = judged(subject, read_baseline(path))
    direct = judged(subject, baseline)
    assert stored.verdict == direct.verdict == "failed"
    assert failed_figures(stored) == failed_figures(direct)
    assert len(path.read_text().splitlines()) < 60
    assert to_json(read_baseline(path)) == path.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stored: stored | {"baseline_version": 9}, "has baseline_version 9"),
        (lambda stored: stored | {"colour": "red"}, "colour: Extra inputs are not permitted"),
        (lambda stored: stored | {"measured": [{"engine": "a"}]}, r"measured\.0\.level: Field required"),
    ],
)
def test_a_baseline_file_that_is_wrong_says_where(measured, tmp_path: Path, change, said: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(change(json.loads(to_json(measured(2))))))
    with pytest.raises(RunError, match=said):
        read_baseline(path)


def test_nan_in_a_baseline_file_is_refused(measured, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(to_json(measured(2)).replace('"value": ', '"value": NaN, "was": ', 1))
    with pytest.raises(RunError, match="it holds NaN, which is no number"):
        read_baseline(path)


def test_goodput_has_its_say(make_run: MakeRun) -> None:
    workload = WORKLOAD | {"measure": {"slo": {"ttft_ms": 22}, "rounds": 6}}
    sides = [
        side_of(make_run(requests(seed, ttft=ttft), workload=workload, environment=RIG))
        for seed, ttft in ((1, 24), (2, 20))
    ]
    assert {"goodput", "slo_attainment"} <= failed_figures(judged(*sides))


def test_a_family_is_judged_together(measured) -> None:
    compared: ComparisonSet = compare_sides([measured(1), measured(3)], measured(2))
    assert compared.num_tests == sum(each.p_adjusted is not None for each in compared.comparisons)
    assert compared.num_tests >= 20


def test_rounds_of_unlike_prompts_are_paired_across_runs(measured) -> None:
    # Rounds differ by their prompts, up to threefold, and alike in both runs: by themselves they hide 10 %.
    lengths = (1.0, 3.0, 1.5, 2.0, 2.5, 1.2)

    def rows(seed: int, itl: float) -> list[Entry]:
        return [
            made
            for number, length in enumerate(lengths)
            for made in requests(seed + number, itl=itl * length, rounds=number + 1)[-40:]
        ]

    sides = [measured(0, rows=rows(seed, itl)) for seed, itl in ((10, 5.5), (20, 5.0))]
    compared = compare_sides([sides[0]], sides[1])
    tpot = next(each for each in compared.comparisons if each.spec.name == "tpot_p50")
    assert tpot.paired
    assert tpot.verdict == "slower"
    for side in sides:
        error = side.measured[0].figures["tpot_p50"].log_error
        assert error is None or error > 0.1
    floor = noise_floor(sides, figures=["output_throughput"])
    assert floor.rows[0].between_rounds < 0.02


def test_a_baseline_that_is_not_there_is_named_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"There is no .*base\.json; give a run directory, or a file of `llmbench gate"):
        open_side(tmp_path / "base.json")
