"""What failed, how often, and what it said."""

from __future__ import annotations

from llmbench.reports.material import Material
from llmbench.reports.section import Section, View
from llmbench.results.attempts import retries
from llmbench.results.series import failures


def _view(material: Material) -> View | None:
    if not material.samples:
        return None
    sent = {(samples.engine, samples.level): len(samples.whole) for samples in material.samples}
    return {"failures": failures(material.run), "sent": sent, "retries": retries(material.run)}


FAILURES = Section("failures", "What failed", "Failures", _view, "failures.html")
