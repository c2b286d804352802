"""The report's curves as pictures, one file each, for slides and papers: SVG or PNG.

Drawn by matplotlib, which needs no browser (plotly's own export starts one): `pip install "llmbench[pictures]"`.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmbench.reports.figure import Axis, Figure, Trace
from llmbench.reports.html import asset
from llmbench.reports.material import Material
from llmbench.reports.section import Panel
from llmbench.reports.sections.distributions import DISTRIBUTIONS
from llmbench.reports.sections.load_curves import LOAD_CURVES
from llmbench.reports.sections.throughput import THROUGHPUT
from llmbench.results.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SECTIONS = (LOAD_CURVES, DISTRIBUTIONS, THROUGHPUT)
_INCHES = (6.4, 3.8)
_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^"}


def write_pictures(run: Run, folder: Path, kind: Literal["svg", "png"]) -> list[Path]:
    """The files written to `folder`, which is made: load curves, distributions and throughput, those that the run has.

    Raises ModuleNotFoundError without matplotlib.
    """
    from matplotlib.figure import Figure as Canvas

    material, colours = Material(run), _light_colours()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure, level in _figures(material):
        canvas = Canvas(figsize=_INCHES, layout="constrained")
        axes = canvas.add_subplot()
        for trace in figure.traces:
            _draw(axes, trace, colours)
        _shape(axes, figure, colours)
        axes.set_title(figure.title if level is None else f"{figure.title} at {level}", loc="left", fontsize=11)
        axes.legend(frameon=False, fontsize=9)
        path = folder / f"{name}.{kind}"
        # The words that a blind reader of the report gets stand in the file too.
        facts = {"Description": figure.alt} | ({"Date": None} if kind == "svg" else {})
        canvas.savefig(path, dpi=160, metadata=facts)
        written.append(path)
    return written


def _figures(material: Material) -> list[tuple[str, Figure, str | None]]:
    """File name, figure and load level (None where the figure is of all levels)."""
    found: list[tuple[str, Figure, str | None]] = []
    for section in _SECTIONS:
        view = section.view(material) or {}
        figures, panels = view.get("figures", ()), view.get("panels", ())
        assert isinstance(figures, list | tuple)
        assert isinstance(panels, list | tuple)
        found += [(_slug(section.slug, figure.title), figure, None) for figure in figures]
        for panel in panels:
            assert isinstance(panel, Panel)
            found += [(_slug(section.slug, figure.title, panel.level), figure, panel.level) for figure in panel.figures]
    return found


def _slug(*parts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def _light_colours() -> dict[str, str]:
    """The colours of the report's light theme, by their names in report.css."""
    light = asset("report.css").partition("@media")[0]
    return dict(re.findall(r"(--[a-z0-9-]+):\s*(#[0-9a-fA-F]{6})", light))


def _draw(axes: Axes, trace: Trace, colours: dict[str, str]) -> None:
    stroke = trace["line"]
    nan = float("nan")
    x, y = ([nan if value is None else value for value in trace[key]] for key in ("x", "y"))
    style: dict[str, Any] = {
        "color": colours[stroke["color"]],
        "linewidth": 0.75 * stroke["width"],
        "linestyle": _dashes(stroke.get("dash", "solid"), stroke["width"]),
        "alpha": trace.get("opacity", 1.0),
        "label": html.unescape(trace["name"]),
    }
    if stroke.get("shape") == "hv":
        style["drawstyle"] = "steps-post"
    if "marker" in trace:
        style |= {"marker": _MARKERS[trace["marker"]["symbol"]], "markersize": 6}
    whiskers = trace.get("error_y")
    if whiskers is None:
        axes.plot(x, y, **style)
    else:
        axes.errorbar(x, y, yerr=[whiskers["arrayminus"], whiskers["array"]], capsize=3, elinewidth=1, **style)


def _dashes(dash: str, width: float) -> Any:
    # plotly's are in pixels, matplotlib's in line widths.
    return "solid" if dash == "solid" else (0, [float(part.removesuffix("px")) / width for part in dash.split(",")])


def _shape(axes: Axes, figure: Figure, colours: dict[str, str]) -> None:
    """Axes and their names, a grid, the lines of limits, and shades over what is left out."""
    for shape in figure.shapes:
        if shape["type"] == "rect":
            shade = colours[shape["fillcolor"]]
            axes.axvspan(shape["x0"], shape["x1"], color=shade, alpha=shape["opacity"], linewidth=0)
        else:
            axes.axhline(shape["y0"], color=colours[shape["line"]["color"]], linewidth=1, linestyle="--", label="SLO")
    _scale(axes, "x", figure.x)
    _scale(axes, "y", figure.y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Axes, which: Literal["x", "y"], axis: Axis) -> None:
    from matplotlib.ticker import PercentFormatter

    title = f"{axis.title} ({axis.unit})" if axis.unit else axis.title
    axes.set(**{f"{which}label": title})
    if axis.log:
        axes.set(**{f"{which}scale": "log"})
    elif axis.low is not None and axis.high is not None:
        axes.set(**{f"{which}lim": (axis.low, axis.high)})
    else:
        axes.set(**{f"{which}lim": (0, None)})
    if axis.share:
        getattr(axes, f"{which}axis").set_major_formatter(PercentFormatter(1.0, decimals=0))
