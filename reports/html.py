"""The report as one HTML file that needs no network: styles, scripts and data are in it."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from llmbench.reports import numbers
from llmbench.reports.figure import DASHES
from llmbench.reports.material import NUM_COLOURS, Material
from llmbench.reports.plain_text import one_line, plain
from llmbench.reports.sections import SECTIONS
from llmbench.results.run import Run


def write_html(run: Run, path: Path) -> None:
    """Write the report of `run` to `path`, replacing it. The file is complete or not there."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(render(run), encoding="utf-8")
    partial.replace(path)


def render(run: Run) -> str:
    """The report of `run` as HTML text."""
    material = Material(run)
    views = [(section, view) for section in SECTIONS if (view := section.view(material)) is not None]
    scripts = [_script(get_plotlyjs()), _script(_asset("report.js"))]
    return (
        _environment()
        .get_template("page.html")
        .render(
            material=material,
            manifest=run.manifest,
            views=views,
            # Our own files and plotly's: nothing that came from a run.
            style=Markup(_asset("report.css")),  # noqa: S704
            scripts=[Markup(script) for script in scripts],  # noqa: S704
            script_hashes=[_csp_hash(script) for script in scripts],
        )
    )


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


def _asset(name: str) -> str:
    return (files("llmbench.reports") / "templates" / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    # Browsers normalise line ends before they hash, and an inline script ends at the first `</script`.
    return text.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
