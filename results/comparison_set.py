"""Everything that is compared at once: engines within a run, or runs against a baseline. One family of tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from llmbench.results.compare import ALPHA, Comparison, Margin, Spread, compare, settle
from llmbench.results.errors import RunError
from llmbench.results.figures import FIGURES
from llmbench.results.matching import Flag, Measured, Side, match

Margins = Mapping[str, Margin]
Spreads = Mapping[tuple[str, str, str], Spread]


@dataclass(frozen=True, slots=True)
class ComparisonSet:
    """`comparisons` were judged together: Holm's correction is over all of them that have a p-value.

    `unmatched` names what one side alone has, `flags` what is unlike about the sides.
    """

    comparisons: tuple[Comparison, ...]
    unmatched: tuple[str, ...]
    flags: tuple[Flag, ...]
    alpha: float

    @property
    def num_tests(self) -> int:
        return sum(comparison.p is not None for comparison in self.comparisons)

    @property
    def fatal(self) -> tuple[str, ...]:
        return tuple(flag.text for flag in self.flags if flag.fatal)


def compare_sides(
    subjects: Sequence[Side],
    baseline: Side,
    *,
    margins: Margins | None = None,
    spreads: Spreads | None = None,
    required: Collection[str] = (),
    alpha: float = ALPHA,
) -> ComparisonSet:
    """Each of `subjects` against `baseline`, which were not measured at the same time.

    Rounds are paired all the same where both asked the same prompts on the same schedule: what the prompts of a round
    did to both cancels, and in mixed workloads that is most of how rounds differ.
    `margins` restricts the comparison to the figures it names; by default all are compared at their own margins. Those
    of `required` are among the comparisons even where neither side has them.
    `spreads`, by engine, level and figure, is what runs differ by in any case.
    """
    comparisons: list[Comparison] = []
    unmatched: list[str] = []
    flags: list[Flag] = []
    for subject in subjects:
        found = match(subject, baseline)
        alike = subject.identity.prompts_digest == baseline.identity.prompts_digest
        unmatched += found.unmatched
        flags += found.flags
        for ours, theirs in found.pairs:
            names = (f"{subject.name}: {ours.engine}", f"{baseline.name}: {theirs.engine}")
            comparisons += _compared(
                ours, theirs, names, paired=alike, margins=margins, spreads=spreads, required=required
            )
    return _settled(comparisons, unmatched, flags, alpha)


def compare_engines(
    side: Side,
    baseline: str | None = None,
    *,
    margins: Margins | None = None,
    required: Collection[str] = (),
    alpha: float = ALPHA,
) -> ComparisonSet:
    """The engines of one run against `baseline`, an engine's label (default: the first one), round by round; `margins`
    and `required` as for `compare_sides`."""
    names = list(dict.fromkeys(each.engine for each in side.measured))
    if len(names) < 2:
        raise RunError(f"{side.name} measured one engine, {', '.join(names) or 'none'}; name a second run to compare.")
    chosen = names[0] if baseline is None else baseline
    if chosen not in names:
        raise RunError(f"{side.name} did not measure {chosen!r}; it has {', '.join(names)}.")
    theirs = {each.level: each for each in side.measured if each.engine == chosen}
    comparisons: list[Comparison] = []
    unmatched: list[str] = []
    for ours in side.measured:
        if ours.engine == chosen:
            continue
        if ours.level not in theirs:
            unmatched.append(f"{ours.engine} was measured at {ours.level} and {chosen} was not.")
            continue
        names_of_pair = (ours.engine, chosen)
        comparisons += _compared(
            ours, theirs[ours.level], names_of_pair, paired=True, margins=margins, required=required
        )
    others = {(each.engine, each.level) for each in side.measured}
    unmatched += [
        f"{chosen} was measured at {level} and {name} was not."
        for level in theirs
        for name in names
        if (name, level) not in others
    ]
    flags = []
    if side.identity.invalid:
        flags.append(Flag(f"{side.name} is invalid: {' '.join(side.identity.invalid)}", fatal=True))
    if not side.identity.finished:
        flags.append(Flag(f"{side.name} did not come to its end.", fatal=True))
    return _settled(comparisons, unmatched, flags, alpha)


def _compared(
    ours: Measured,
    theirs: Measured,
    names: tuple[str, str],
    *,
    paired: bool,
    margins: Margins | None,
    spreads: Spreads | None = None,
    required: Collection[str],
) -> list[Comparison]:
    return [
        compare(
            spec,
            ours.level,
            (names[0], ours.figures.get(spec.name)),
            (names[1], theirs.figures.get(spec.name)),
            margin=None if margins is None else margins.get(spec.name),
            paired=paired,
            spread=None if spreads is None else spreads.get((ours.engine, ours.level, spec.name)),
        )
        for spec in FIGURES
        if (spec.name in ours.figures or spec.name in theirs.figures or spec.name in required)
        and (margins is None or spec.name in margins)
    ]


def _settled(
    comparisons: Sequence[Comparison], unmatched: Sequence[str], flags: Sequence[Flag], alpha: float
) -> ComparisonSet:
    return ComparisonSet(tuple(settle(comparisons, alpha)), tuple(unmatched), tuple(dict.fromkeys(flags)), alpha)
