"""Who waited how long, where a workload mixes several kinds of users."""

from __future__ import annotations

from llmbench.reports.material import Material
from llmbench.reports.section import Section, View
from llmbench.results.summary import summarise_populations

_LATENCIES = (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "E2E"))


def _view(material: Material) -> View | None:
    rows = summarise_populations(material.run)
    if not rows:
        return None
    latencies = [
        (name, title) for name, title in _LATENCIES if any(each.row.distribution(name) is not None for each in rows)
    ]
    return {"rows": rows, "latencies": latencies}


POPULATIONS = Section("populations", "Who waited how long", "Populations", _view, "populations.html")
