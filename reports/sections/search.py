"""The highest load that met the objectives, where a run looked for it."""

from __future__ import annotations

from llmbench.reports.material import Material
from llmbench.reports.section import Section, View


def _view(material: Material) -> View | None:
    # An engine that did not start was not searched.
    searches = [search for search in material.run.manifest.search if search.tried]
    return {"searches": searches} if searches else None


SEARCH = Section("search", "The highest load that is still good", "Search", _view, "search.html")
