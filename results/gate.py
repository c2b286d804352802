"""Red or green: whether a run is worse than its baseline by more than it may be, and more than chance explains."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from llmbench.results.compare import ALPHA, Comparison, Margin
from llmbench.results.comparison_set import ComparisonSet
from llmbench.results.figures import FIGURE_BY_NAME, FIGURES
from llmbench.results.units import MIN_ROUNDS

Outcome = Literal["passed", "improved", "failed", "undecided"]
GateVerdict = Literal["passed", "failed", "undecided", "not comparable"]

_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _known(name: str) -> str:
    if name not in FIGURE_BY_NAME:
        near = difflib.get_close_matches(name, FIGURE_BY_NAME, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"no figure is called {name!r}{hint} There are {', '.join(FIGURE_BY_NAME)}")
    return name


_FigureName = Annotated[str, AfterValidator(_known)]


class MarginSpec(BaseModel):
    """How much worse a figure may be: by this share of the baseline, and by this much in its unit. Both must be
    exceeded; what is left out keeps the figure's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    relative: _NotNegative | None = None
    absolute: _NotNegative | None = None


class GateSpec(BaseModel):
    """The thresholds file. `figures` are those that can turn the gate red; by default all, at their own margins.
    Those that it names are asked for: see `required`.

    `alpha` is the chance that a run no worse than its baseline fails in any of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    figures: Mapping[_FigureName, MarginSpec] = Field(
        default_factory=lambda: {spec.name: MarginSpec() for spec in FIGURES}
    )
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = ALPHA

    @field_validator("figures")
    @classmethod
    def _not_empty(cls, figures: Mapping[str, MarginSpec]) -> Mapping[str, MarginSpec]:
        if not figures:
            raise ValueError("a gate without a figure passes everything; name one or leave `figures` out")
        return figures

    @property
    def required(self) -> frozenset[str]:
        """The figures that were named. A gate that cannot test one of them has not done what it was asked."""
        return frozenset(self.figures) if "figures" in self.model_fields_set else frozenset()

    def margins(self) -> dict[str, Margin]:
        found = {}
        for name, asked in self.figures.items():
            spec = FIGURE_BY_NAME[name]
            found[name] = Margin(
                spec.relative if asked.relative is None else asked.relative,
                spec.absolute if asked.absolute is None else asked.absolute,
            )
        return found


@dataclass(frozen=True, slots=True)
class GateCase:
    """One figure at one level. `why` is a sentence's worth of reason."""

    comparison: Comparison
    outcome: Outcome
    why: str


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict with every case that went into it. `reasons` say why there can be no comparison, `required` names the
    figures without which there is no green."""

    verdict: GateVerdict
    cases: tuple[GateCase, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    alpha: float
    required: frozenset[str] = frozenset()

    @property
    def lacking(self) -> tuple[GateCase, ...]:
        """The cases of required figures that could not be tested."""
        return tuple(
            case for case in self.cases if case.outcome == "undecided" and case.comparison.spec.name in self.required
        )

    @property
    def failed(self) -> tuple[GateCase, ...]:
        return tuple(case for case in self.cases if case.outcome == "failed")


def judge_gate(compared: ComparisonSet, *, allow_unlike: bool = False, required: Collection[str] = ()) -> GateResult:
    """The gate's verdict on comparisons that were made with `GateSpec.margins()` and restricted to its figures.

    Not comparable: another machine, workload, model, an unfinished or invalid run, or a level that is missing; unless
    `allow_unlike`. Failed: a figure is slower beyond its margin, or is gone. Undecided: no figure could be tested, or
    one of `required` could not.
    """
    reasons = () if allow_unlike else (*compared.fatal, *compared.unmatched)
    notes = tuple(flag.text for flag in compared.flags if allow_unlike or not flag.fatal)
    if allow_unlike:
        notes = (*notes, *compared.unmatched)
    cases = tuple(_case(comparison) for comparison in compared.comparisons)
    result = GateResult("undecided", cases, reasons, notes, compared.alpha, frozenset(required))
    if reasons:
        return replace(result, verdict="not comparable")
    if result.failed:
        return replace(result, verdict="failed")
    if not result.lacking and any(case.outcome in ("passed", "improved") for case in cases):
        return replace(result, verdict="passed")
    return result


def confirmed(first: GateResult, again: GateResult) -> GateResult:
    """`first` in the light of a second measurement: what failed in both is still failed, what failed once is undecided.

    A second measurement that cannot be compared, or that says too little of a suspect, confirms nothing and excuses
    nothing: unless another figure failed twice, there is then no verdict. Neither is there where a required figure
    could not be tested in the first.
    """
    if again.reasons:
        reason = f"Slower once, and the second measurement could not be compared: {again.reasons[0]}"
        return replace(first, verdict="not comparable", reasons=(reason,))
    second = {key: case.outcome for key, case in _by_key(again).items()}
    cases, excused = [], True
    for key, case in _by_key(first).items():
        outcome = second.get(key, "undecided")
        if case.outcome != "failed" or outcome == "failed":
            cases.append(case)
            continue
        excused = excused and outcome != "undecided"
        told = "too little of it the second time" if outcome == "undecided" else "not again"
        cases.append(replace(case, outcome="undecided", why=f"slower once and {told}: {case.why}"))
    verdict: GateVerdict = "passed" if excused and not first.lacking else "undecided"
    if any(case.outcome == "failed" for case in cases):
        verdict = "failed"
    return replace(first, verdict=verdict, cases=tuple(cases))


def _by_key(result: GateResult) -> dict[tuple[str, str, str], GateCase]:
    """The cases by figure, level and engine; a side's only engine may have another label the second time."""
    # The second run has a name of its own: the engine is what follows it.
    engines = {id(case): case.comparison.subject.rpartition(": ")[2] for case in result.cases}
    lone = len(set(engines.values())) == 1
    return {
        (case.comparison.spec.name, case.comparison.level, "" if lone else engines[id(case)]): case
        for case in result.cases
    }


def _case(comparison: Comparison) -> GateCase:
    if comparison.subject_figure is None and comparison.baseline_figure is not None:
        return GateCase(comparison, "failed", f"{comparison.spec.title} is gone: the baseline has it")
    if comparison.verdict == "insufficient data":
        return GateCase(comparison, "undecided", comparison.reason or "insufficient data")
    if not comparison.across_rounds and comparison.ratio is not None:
        # Within one round nothing shows what the next round would do; a red gate on that would cry wolf.
        return GateCase(comparison, "undecided", f"needs {MIN_ROUNDS} rounds on both sides")
    change = _change(comparison)
    if comparison.verdict == "slower":
        return GateCase(comparison, "failed", change)
    if comparison.verdict == "faster":
        return GateCase(comparison, "improved", change)
    # A gate looks out for the worse: that is what the figure's direction is here.
    seen = comparison.detectable_ratio(rise=comparison.spec.better == "lower")
    limit = "" if seen is None else f"; a change of {100 * (seen - 1):+.1f} % would have been seen"
    return GateCase(comparison, "passed", f"{change}{limit}")


def _change(comparison: Comparison) -> str:
    if comparison.ratio is None or comparison.interval is None:
        return comparison.reason or comparison.verdict
    low, high = (100 * (bound - 1) for bound in comparison.interval)
    p = "" if comparison.p_adjusted is None else f", corrected p = {comparison.p_adjusted:.2g}"
    margin = comparison.margin
    allowed = [f"{100 * margin.relative:g} %"] if margin.relative else []
    allowed += [f"{margin.absolute:g} {comparison.spec.unit}"] if margin.absolute else []
    return (
        f"{100 * (comparison.ratio - 1):+.1f} % (95 % interval {low:+.1f} to {high:+.1f} %{p}, "
        f"margin {' and '.join(allowed) or 'none'})"
    )
