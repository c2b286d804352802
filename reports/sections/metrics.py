"""What each figure means and how it is computed: the metric table, in words."""

from __future__ import annotations

from llmbench.reports.material import Material
from llmbench.reports.section import Section, View
from llmbench.results.metrics import METRICS
from llmbench.results.statistics import CONFIDENCE, MIN_ROUNDS, QUANTILES, required_n


def _view(material: Material) -> View:
    required = {share: required_n(share) for share in QUANTILES}
    return {"metrics": METRICS, "confidence": CONFIDENCE, "required": required, "min_rounds": MIN_ROUNDS}


METRICS_EXPLAINED = Section("metrics", "What the figures mean", "Definitions", _view, "metrics.html")
