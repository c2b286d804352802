"""The answer in words, above everything else."""

from __future__ import annotations

from llmbench.reports.headline import headline
from llmbench.reports.material import Material
from llmbench.reports.section import Section, View
from llmbench.results.answer import answer
from llmbench.results.equal_work import unequal_work
from llmbench.results.output_equality import agreement


def _view(material: Material) -> View:
    sentences = headline(material)
    whole = answer(material.run)
    return {
        "sentences": sentences,
        "whole": () if whole == sentences else whole,
        "unequal": unequal_work(material.run),
        "agreement": agreement(material.run),
        "sure": len(material.engines) > 1,
        "invalid": material.manifest.invalid,
    }


ANSWER = Section("answer", "The answer", None, _view, "answer.html")
