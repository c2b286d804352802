"""Figures over runs as a page: a change is named with its commit, in words, in its picture and in the table."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from llmbench.reports.trend_html import trend_html, write_trend_html
from llmbench.results.figures import FIGURE_BY_NAME
from llmbench.results.history import StoredRun, TrendPoint
from llmbench.results.trend import series_of

HOSTILE = "</script><script>alert(1)</script>\x1b"


def points(values: list[float], *, fingerprint: str = "f0", commit: str = "c0ffee") -> list[TrendPoint]:
    return [
        TrendPoint(
            StoredRun(
                f"{fingerprint}-{day}",
                f"2026-01-{day:02d}T10:00:00Z",
                "w",
                f"{commit}{day:02d}{'0' * 32}",
                fingerprint,
                "question",
            ),
            value,
            0.01,
            40,
            7,
        )
        for day, value in enumerate(values, 1)
    ]


def page(values: list[float], figure: str = "tpot_p50", **given) -> str:
    trends = series_of(FIGURE_BY_NAME[figure], points(values, **given))
    return trend_html(trends, engine="alpha", level="poisson 8/s", hardware={"f0": {"cpu": "Some CPU", "cores": 2}})


def drawn(html: str) -> dict:
    [spec] = re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)
    return json.loads(spec)


STEP = [10.0, 10.1, 9.9, 10.05, 10.1, 9.95, 10.0, 12.0, 12.1, 11.9, 12.0, 12.1, 11.95, 12.0]


@pytest.mark.parametrize(
    ("figure", "word", "colour"), [("tpot_p50", "worse", "--bad"), ("output_throughput", "better", "--good")]
)
def test_a_change_is_named_with_its_commit_and_how_sure_it_is(figure: str, word: str, colour: str) -> None:
    html = page(STEP, figure)
    answer = html[html.index('id="answer"') : html.index('id="series-1"')].replace("\xa0", " ")
    title = FIGURE_BY_NAME[figure].title
    assert f"From c0ffee0 of 2026-01-08 on, {word} in {title} (+20.0 %) (p = 0.001)." in answer
    layout = drawn(html)["layout"]
    # Between the seventh run and the eighth.
    assert [(shape["x0"], shape["line"]["color"]) for shape in layout["shapes"]] == [(7.5, colour)]
    assert [mark["text"] for mark in layout["annotations"]] == ["c0ffee0"]
    [row] = [row for row in re.findall(r"<tr>.*?</tr>", html, re.S) if "+20.0" in row]
    assert "2026-01-08" in row


def test_dots_carry_their_intervals_and_a_line_what_runs_agree_on() -> None:
    levels, dots, failed = drawn(page(STEP))["traces"]
    assert dots["y"] == STEP
    # Student's t at 0.975 with 7 degrees of freedom is 2.3646.
    assert dots["error_y"]["array"][0] == pytest.approx(10 * (math.exp(2.3646 * 0.01) - 1), rel=1e-3)
    assert levels["y"] == [10.0, 10.0, None, 12.0, 12.0, None]
    assert failed["x"] == []


def test_steady_runs_and_too_few_say_so() -> None:
    assert "No change found in TPOT p50." in page([10.0, 10.1] * 6)
    assert "Too few to tell: 1 run, and it takes 8." in page([10.0])


def test_a_run_of_failures_stands_at_the_top_and_not_off_the_picture() -> None:
    html = page([10.0, math.inf, 10.1, 10.0])
    _, dots, failed = drawn(html)["traces"]
    assert dots["y"][1] is None
    assert failed["x"] == [2]
    assert failed["y"] == pytest.approx([drawn(html)["layout"]["yaxis"]["range"][1]], rel=1e-4)
    assert "∞" in html
    assert "∞" in page([math.inf])


def test_other_hardware_is_a_series_of_its_own() -> None:
    spec = FIGURE_BY_NAME["tpot_p50"]
    trends = series_of(spec, [*points(STEP), *points([20.0] * 3, fingerprint="f1")])
    html = trend_html(trends, engine="alpha", level="closed 4", hardware={})
    assert html.count('type="application/json"') == 2
    assert "Series 2, hardware f1" in html
    assert html.count("From c0ffee0") == 1


def test_names_stay_text_and_only_our_scripts_run(tmp_path: Path) -> None:
    trends = series_of(FIGURE_BY_NAME["tpot_p50"], points(STEP, commit="<b>\x1b"))
    path = tmp_path / "trend.html"
    write_trend_html(trends, path, engine=HOSTILE, level=HOSTILE, hardware={"f0": {HOSTILE: HOSTILE}})
    html = path.read_text(encoding="utf-8")
    assert "alert(1)" in html
    assert not re.search(r"<script>\s*alert", html)
    assert "\x1b" not in html
    assert "<b>" not in html
    assert re.findall(r"src=|href=\"[^#]", re.sub(r"<script.*?</script>", "", html, flags=re.S)) == []
