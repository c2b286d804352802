"""The shape of a report section: a title, what it computes, and the template that shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmbench.reports.figure import Figure
from llmbench.reports.material import Material

View = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Section:
    """`view` computes what `template` shows; None leaves the section out, because the run has nothing for it.

    `slug` is the section's anchor. `nav` is its name in the contents, None for a section that is not listed there.
    """

    slug: str
    title: str
    nav: str | None
    view: Callable[[Material], View | None]
    template: str = "figures.html"


@dataclass(frozen=True, slots=True)
class Panel:
    """What one load level shows: `number` counts levels from 0 and connects the panels of all sections."""

    number: int
    level: str
    figures: tuple[Figure, ...]


def figures_by_level(
    material: Material, lead: str, draw: Callable[[str], list[Figure]], legend: str = "legend_engines.html"
) -> View | None:
    """The view of figures.html: what `draw` draws for each level, None if nothing anywhere. `lead` says how to read,
    `legend` is the template that explains the colours."""
    panels = [Panel(number, level, tuple(draw(level))) for number, level in enumerate(material.levels)]
    if not any(panel.figures for panel in panels):
        return None
    return {"lead": lead, "panels": panels, "legend": legend}
