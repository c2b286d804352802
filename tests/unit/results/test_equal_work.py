"""What was unlike about the engines' work, on runs that are unlike in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_runs import MS, ORIGIN_NS, MakeRun, entry

from llmbench.results.equal_work import unequal_work
from llmbench.results.manifest import EngineManifest
from llmbench.results.run import Run
from llmbench.results.telemetry import TELEMETRY, TELEMETRY_JOURNAL, Reading, TelemetryJournal, Value, journalled

PROMPTS = (100, 300, 500)


def made(make_run: MakeRun, b: Mapping[str, Any] | None = None, **details: tuple[Any, Any]) -> Run:
    """Three questions to a and to b, alike but for the columns in `b` (one value or one for each question) and the
    `details` of (a, b)."""
    changes = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in (b or {}).items()}
    engines = tuple(
        EngineManifest(
            label=label,
            name="openai",
            details={name: pair[place] for name, pair in details.items() if pair[place] is not None},
        )
        for place, label in enumerate("ab")
    )
    entries = [
        entry(
            index,
            engine=label,
            **{"prompt_tokens": prompt, "output_tokens": 2}
            | ({name: values[index] for name, values in changes.items()} if label == "b" else {}),
        )
        for label in "ab"
        for index, prompt in enumerate(PROMPTS)
    ]
    return make_run(entries, engines=engines)


def test_equal_work_is_not_complained_about(make_run: MakeRun) -> None:
    assert unequal_work(made(make_run, dtype=("float32", "float32"), kv_cache_dtype=("auto", "auto"))) == ()


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((101, 301, 501), "for 3 of 3 prompts, 1 more each: one of them adds tokens of its own."),
        ((100, 256, 256), "for 2 of 3 prompts, 256 against 400 on average: b took none beyond 256, as if it cut"),
        ((110, 290, 555), "for 3 of 3 prompts, 318 against 300 on average: another tokenizer"),
    ],
)
def test_other_counts_of_prompt_tokens_are_flagged(make_run: MakeRun, counts: tuple[int, ...], said: str) -> None:
    [sentence] = unequal_work(made(make_run, {"prompt_tokens": counts}))
    assert said in sentence


def test_other_lengths_of_answers_are_flagged(make_run: MakeRun) -> None:
    [sentence] = unequal_work(made(make_run, {"output_tokens": (2, 8, 2)}))
    assert sentence == (
        "b's answers have another length than a's for 1 of 3 questions: 4.0 tokens against 2.0 on average over all."
    )


def test_what_failed_was_no_work(make_run: MakeRun) -> None:
    [sentence] = unequal_work(made(make_run, {"status": ("ok", "failed", "ok")}))
    assert sentence.startswith("b failed 1 of 3 requests, a 0 of 3")


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"dtype": ("float32", "bfloat16")}, ("Another dtype: a float32, b bfloat16.",)),
        ({"dtype": ("float32", None)}, ()),  # unknown is not unlike
        (
            {"dtype": ("float32", "float32"), "quantization": (None, "int4")},
            ("Another quantisation: a none, b int4.",),
        ),
        ({"quantization": (None, "int4")}, ()),  # a tells nothing of itself at all
    ],
)
def test_another_number_format_is_flagged(
    make_run: MakeRun, details: dict[str, tuple[Any, Any]], said: tuple[str, ...]
) -> None:
    assert unequal_work(made(make_run, **details)) == said


def test_counts_by_another_ruler_are_flagged(make_run: MakeRun) -> None:
    [sentence] = unequal_work(made(make_run, {"token_source": "assumed_one"}))
    assert sentence.startswith("b did not say how many tokens it sent")


def test_a_prefix_cache_that_helped_one_is_flagged(make_run: MakeRun) -> None:
    run = made(make_run)
    journal = TelemetryJournal(run.path / TELEMETRY_JOURNAL)
    for engine, hits in (("a", 0.0), ("b", 450.0)):
        for ms, hit, query in ((-1, 0.0, 0.0), (21, hits, 900.0)):
            values = [Value("prefix_cache_hits", hit), Value("prefix_cache_queries", query)]
            journal.append([Reading(ORIGIN_NS + ms * MS, 1, engine, "metrics", "", values)])
    journal.close()
    pq.write_table(journalled(run.path / TELEMETRY_JOURNAL), run.path / TELEMETRY)
    [sentence] = unequal_work(Run.open(run.path))
    assert sentence.endswith("were not computed again: a 0%, b 50%.")


def test_one_engine_has_nobody_to_be_unequal_to(make_run: MakeRun) -> None:
    assert unequal_work(make_run([entry()])) == ()
