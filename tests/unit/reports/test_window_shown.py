"""The window of a run is told in words, and what it leaves out is shaded in the pictures over time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import write_run

from llmbench.reports.console import print_summary
from llmbench.reports.exports import write_json
from llmbench.reports.figure import Figure
from llmbench.reports.html import render
from llmbench.reports.markdown import run_markdown
from llmbench.reports.material import Material
from llmbench.reports.section import Section
from llmbench.reports.sections.arrivals import ARRIVALS
from llmbench.reports.sections.throughput import THROUGHPUT
from llmbench.reports.sections.waterfall import WATERFALL
from llmbench.reports.window_bands import bands
from llmbench.results.run import Run
from llmbench.results.window import Window

RULES = "warm-up 20%, cool-down 5 requests"


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Run:
    workload = {"name": "cut", "traffic": {}, "measure": {"warmup": "20%", "cooldown": "5 requests"}}
    path = tmp_path_factory.mktemp("runs") / "cut"
    return write_run(path, num_requests=30, num_tokens=8, rounds=1, workload=workload)


def figures(section: Section, run: Run) -> list[Figure]:
    view = section.view(Material(run))
    assert view is not None
    panels = view["panels"]
    assert isinstance(panels, list)
    return [figure for panel in panels for figure in panel.figures]


def test_console_page_markdown_and_json_say_the_rules_and_what_counts(cut: Run, tmp_path: Path) -> None:
    file = io.StringIO()
    print_summary(cut, Console(file=file, width=80))
    write_json(cut, tmp_path / "run.json")
    row = json.loads((tmp_path / "run.json").read_text())["rows"][0]
    for text in (" ".join(file.getvalue().split()), render(cut), run_markdown(cut).replace("\\", ""), row["window"]):
        assert RULES in text
        assert f"{row['num_requests']} of 30 requests count" in text
    assert 15 < row["num_requests"] < 25


def test_what_is_left_out_is_shaded_in_each_picture_over_time(cut: Run) -> None:
    window = Material(cut).samples[0].windows[0]
    for section in (THROUGHPUT, WATERFALL, ARRIVALS):
        figure = figures(section, cut)[0]
        assert "Shaded: left out" in figure.reading
        starts = [shape["x0"] for shape in figure.shapes]
        ends = [shape["x1"] for shape in figure.shapes]
        assert min(starts) == 0
        assert (window.start_ns - window.first_ns) / 1e9 == pytest.approx(ends[0], abs=1e-6)


def test_nothing_is_shaded_where_nothing_is_left_out(run: Run) -> None:
    for section in (THROUGHPUT, WATERFALL, ARRIVALS):
        assert all(not figure.shapes and "Shaded" not in figure.reading for figure in figures(section, run))


def test_what_only_some_rounds_leave_out_is_shaded_more_lightly() -> None:
    shapes = bands([Window(2e9, 8e9, 0, 10e9), Window(3e9, 8e9, 0, 10e9)])
    dark, light, last = shapes
    assert (dark["x0"], dark["x1"], light["x0"], light["x1"]) == (0, 2, 2, 3)
    assert dark["opacity"] > light["opacity"]
    assert (last["x0"], last["x1"]) == (8, 10)


def test_the_pictures_are_shaded_too(cut: Run, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from llmbench.reports.pictures import write_pictures

    def shades(shown: Run, folder: str) -> int:
        [path] = [each for each in write_pictures(shown, tmp_path / folder, "svg") if "output-tokens" in each.name]
        return path.read_text().count("opacity: 0.22")

    assert (shades(cut, "cut"), shades(run, "whole")) == (2, 0)


def test_windows_of_many_engines_and_loads_do_not_fill_the_page(tmp_path: Path) -> None:
    workload = {"name": "cut", "traffic": {}, "measure": {"warmup": "20%", "cooldown": "5 requests"}}
    run = write_run(tmp_path / "run", rates=(4.0, 8.0), num_requests=20, num_tokens=6, rounds=1, workload=workload)
    html = render(run)
    facts, more = html[html.index('class="facts"') : html.index('id="overview"')].split("</dl>")
    assert facts.count(RULES) == 1
    assert "of an engine's requests count".replace("'", "&#39;") in facts
    assert more.count(RULES) == 4
