"""The answer at first sight: at each load level the fastest engine, the next one, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llmbench.reports.comparison_rows import lacks_rounds, unsure
from llmbench.reports.material import Material
from llmbench.reports.numbers import digits
from llmbench.results.answer import answer, incompleteness
from llmbench.results.compare import Comparison, compare, settle
from llmbench.results.figures import FIGURE_BY_NAME
from llmbench.results.matching import Measured
from llmbench.results.units import MIN_ROUNDS

_WAYS = {"e2e_p50": "to a whole answer", "ttft_p50": "to the first token", "tpot_p50": "from token to token"}


def headline(material: Material) -> tuple[str, ...]:
    """One sentence per load level, or per engine where the highest good load was searched for. `results.answer` has the
    whole of it; this is what fits above a table."""
    if found := [search for search in material.manifest.search if search.tried]:
        return (*incompleteness(material.run), *(f"{search.engine}: {search.sentence}" for search in found))
    if len(material.engines) < 2:
        return answer(material.run)
    ranked = {level: _ranked(material, level) for level in material.levels}
    compared = settle([each for engines in ranked.values() for each in _best_and_next(engines)])
    return tuple(
        _sentence(level, engines, [each for each in compared if each.level == level])
        for level, engines in ranked.items()
    )


def _ranked(material: Material, level: str) -> list[Measured]:
    def seconds(each: Measured) -> float:
        figure = each.figures.get("e2e_p50")
        return math.inf if figure is None else figure.value

    return sorted((each for each in material.side.measured if each.level == level), key=seconds)


def _best_and_next(engines: list[Measured]) -> Iterator[Comparison]:
    if len(engines) < 2:
        return
    best, other = engines[:2]
    for name in _WAYS:
        if name in best.figures and name in other.figures:
            names = (best.engine, best.figures[name]), (other.engine, other.figures[name])
            yield compare(FIGURE_BY_NAME[name], best.level, *names, paired=True)


def _sentence(level: str, engines: list[Measured], compared: list[Comparison]) -> str:
    if len(engines) < 2:
        return f"At {level} only {engines[0].engine} was measured."
    best, other = engines[0].engine, engines[1].engine
    known = [each for each in compared if each.gain is not None]
    if not known:
        reason = next((each.reason for each in compared if each.reason), "there is too little data")
        return f"At {level}, nothing can be said of {best} against {other}: {reason}."
    ranks = "" if len(engines) == 2 else f" (second of {len(engines)})"
    if any(map(lacks_rounds, known)):
        num_rounds = min(engine.num_rounds for engine in engines[:2])
        lacking = f"no verdict: needs {MIN_ROUNDS} rounds, has {num_rounds}"
        return f"At {level}, {best} against {other}{ranks}: {', '.join(map(_told, known))}; {lacking}."
    shown = [each for each in known if each.verdict in ("faster", "slower")]
    likely = [each for each in known if each.leaning is not None]
    if not shown and not likely:
        first = known[0]
        limit = first.detectable_ratio(rise=True)
        seen = "" if limit is None else f"; {digits(limit)}× would have been"
        return f"At {level} no difference between {best} and {other} is shown: {_told(first)}{seen}."
    told = [", ".join(map(_told, shown))] if shown else []
    told += [f"likely {', '.join(map(_told, likely))}, {unsure(likely)}"] if likely else []
    others = [_WAYS[each.spec.name] for each in known if each not in shown and each not in likely]
    told += [f"no difference shown {' and '.join(others)}"] if others else []
    lead = "is faster than" if shown and all(each.verdict == "faster" for each in shown) else "against"
    return f"At {level}, {best} {lead} {other}{ranks}: {'; '.join(told)}."


def _told(comparison: Comparison) -> str:
    gain, interval = comparison.gain, comparison.gain_interval
    assert gain is not None
    sure = "" if interval is None else f" ({digits(interval.low)}–{digits(interval.high)})"
    slower = ", slower," if "slower" in (comparison.verdict, comparison.leaning) else ""
    return f"{digits(gain)}×{sure}{slower} {_WAYS[comparison.spec.name]}"
