"""The answer in words, above everything else."""

from __future__ import annotations

from llmbench.reports.material import Material
from llmbench.reports.section import Section, View
from llmbench.results.answer import answer


def _view(material: Material) -> View:
    return {"sentences": answer(material.run)}


ANSWER = Section("answer", "The answer", None, _view, "answer.html")
