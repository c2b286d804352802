"""The comparison as a page: what forbids it comes first, every pair has its scale, and text stays text."""

from __future__ import annotations

import re
from pathlib import Path

from made_runs import MakeRun, entry
from synthetic_run import FakeEngine, write_run

from llmbench.reports.comparison_html import comparison_html, write_comparison_html
from llmbench.results.comparison_set import compare_engines, compare_sides
from llmbench.results.matching import side_of
from llmbench.results.run import Run


def test_a_slower_engine_is_named_slower_and_drawn_to_the_left(sweep: Run) -> None:
    html = comparison_html(compare_engines(side_of(sweep)))
    assert "beta against alpha: worse in TTFT p50 (+" in html
    rows = re.findall(r'class="track balance slower".*?class="dot" style="left: ([\d.]+)%', html, re.S)
    assert rows
    assert all(float(at) < 50 for at in rows)


def test_what_forbids_the_comparison_comes_before_the_figures(tmp_path: Path) -> None:
    engine = (FakeEngine("a"),)
    base = write_run(tmp_path / "base", engines=engine, num_requests=20, num_tokens=8)
    head = write_run(tmp_path / "head", engines=engine, num_requests=20, num_tokens=8, environment={"cpu": "other"})
    html = comparison_html(compare_sides([side_of(head, "head")], side_of(base, "base")))
    assert html.index("These are not comparable") < html.index("TTFT p50")
    assert "Hardware differs" in html


def test_labels_stay_text_and_nothing_runs(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b"
    run = make_run([entry(0, engine=hostile), entry(0, engine="b")])
    write_comparison_html(compare_engines(side_of(run), baseline="b"), tmp_path / "comparison.html")
    html = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;" in html
    assert "default-src 'none'" in html
