"""The report as one HTML file that needs no network: styles, scripts and data are in it."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from llmbench.reports import numbers
from llmbench.reports.figure import DASHES
from llmbench.reports.material import NUM_COLOURS, Material
from llmbench.reports.plain_text import one_line, plain
from llmbench.reports.sections import SECTIONS
from llmbench.results.run import Run


def write_html(run: Run, path: Path) -> None:
    """Write the report of `run` to `path`, replacing it."""
    write_whole(path, render(run))


def render(run: Run) -> str:
    """The report of `run` as HTML text."""
    material = Material(run)
    views = [(section, view) for section in SECTIONS if (view := section.view(material)) is not None]
    return template("page.html").render(
        **page_assets(drawing=True), material=material, manifest=run.manifest, views=views
    )


def write_whole(path: Path, html: str) -> None:
    """Write `html` to `path`; the file is complete or not there, and an older one stays until then."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)


def page_assets(*, drawing: bool) -> dict[str, object]:
    """What head.html and, for pages that are `drawing` figures, scripts.html need: the style, the scripts, and the
    hashes that allow these and no others to run."""
    # Our own files and plotly's: nothing that came from a run.
    assets: dict[str, object] = {"style": Markup(asset("report.css")), "script_hashes": []}  # noqa: S704
    if drawing:
        plotly, script = _script(get_plotlyjs()), _script(asset("report.js"))
        assets |= {
            "plotly": Markup(plotly),  # noqa: S704
            "script": Markup(script),  # noqa: S704
            "script_hashes": [_csp_hash(plotly), _csp_hash(script)],
        }
    return assets


def template(name: str) -> Template:
    """A template of `templates/` that escapes whatever it is given."""
    return _environment().get_template(name)


def asset(name: str) -> str:
    """A file of `templates/` as it is."""
    return (files("llmbench.reports") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("llmbench.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals.update(num_colours=NUM_COLOURS, dashes=DASHES)
    environment.filters.update(
        digits=numbers.digits,
        count=numbers.count,
        percent=numbers.percent,
        interval=numbers.interval,
        quantile=numbers.quantile,
        bytes=numbers.bytes_,
        one_line=one_line,
    )
    return environment


def _harmless(value: Any) -> Any:
    # Runs on every {{ … }} before escaping: no template can forget it.
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _script(text: str) -> str:
    # Browsers normalise line ends before they hash, and an inline script ends at the first `</script`.
    return text.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
