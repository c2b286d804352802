"""Warm-up and cool-down rules in a workload: one spelling each, and a sentence for what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.results.window import _FORM as READ
from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import loads
from llmbench.workloads.spec import MeasureSpec
from llmbench.workloads.truncation import amount_of

HEAD = "name: t\nmodel: m\n"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("10%", "10%"),
        ("10 %", "10%"),
        ("2.50%", "2.5%"),
        ("5 s", "5 s"),
        ("5s", "5 s"),
        ("20 requests", "20 requests"),
        ("auto", "auto"),
        ("none", None),
        ("null", None),
    ],
)
def test_every_rule_has_one_spelling(given: str, stored: str | None) -> None:
    measure = loads(f"{HEAD}measure: {{warmup: {given}, cooldown: null}}").measure
    assert (measure.warmup, measure.cooldown) == (stored, None)


@pytest.mark.parametrize(
    "given", ["5", "true", "-1 s", "0%", "100%", "2.5 requests", "5 m", "0 requests", "1e3 s", "[]"]
)
def test_anything_else_is_refused_with_what_is_allowed(given: str) -> None:
    with pytest.raises(WorkloadError, match=r"measure\.warmup.*allowed: none, auto, a share such as 10%"):
        loads(f"{HEAD}measure: {{warmup: {given}}}")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("measure: {warmup: 60%, cooldown: 40%}", "measure.cooldown': given 40%, and warmup 60%"),
        ("traffic: {arrivals: {kind: burst}}\nmeasure: {warmup: 5 s}", "measure.warmup': given 5 s, but a burst"),
        ("traffic: {requests: 20}\nmeasure: {cooldown: 20 requests}", "a round has 20 requests: nothing would be left"),
        (
            "traffic: {duration_s: 8, arrivals: {kind: poisson, rate: 2}}\nmeasure: {warmup: 5 s, cooldown: 3 s}",
            "a round lasts 8.0 s: nothing would be left",
        ),
    ],
)
def test_rules_that_leave_nothing_are_refused_before_anything_is_sent(fields: str, complaint: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        loads(HEAD + fields)
    assert complaint in str(caught.value)


def test_no_rule_leaves_the_digest_as_it_was() -> None:
    assert loads(f"{HEAD}measure: {{warmup: none, cooldown: none}}").digest() == loads(HEAD).digest()
    assert loads(f"{HEAD}measure: {{warmup: auto}}").digest() != loads(HEAD).digest()


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,3})? ?(%|s|requests)", fullmatch=True))
def test_what_is_accepted_is_stored_so_that_it_is_read_back_the_same(text: str) -> None:
    try:
        rule = MeasureSpec(warmup=text).warmup
    except ValueError:
        return
    assert MeasureSpec(warmup=rule).warmup == rule
    amount = amount_of(rule)
    if amount is None:
        assert text in ("none", "auto")
        return
    # As reports read it, which share no code with workloads.
    read = READ.fullmatch(rule or "")
    assert read is not None
    assert (float(read[1]), read[2]) == amount
