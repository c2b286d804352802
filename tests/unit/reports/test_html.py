"""The report file: complete, offline, small enough, and harmless whatever a run holds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import MakeRun, entry

from llmbench.reports.html import render, write_html
from llmbench.reports.sections import SECTIONS
from llmbench.results.manifest import EngineManifest
from llmbench.results.run import Run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\' onload="x'


class Page(HTMLParser):
    """What a browser would make of the page: elements, scripts, and text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append((tag, dict(attrs)))
            self.scripts += [(dict(attrs), "")] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1][0] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open:
            self.text += data
        elif self._open[-1][0] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("type") == "application/json"]

    @property
    def executed(self) -> list[str]:
        return [text for attributes, text in self.scripts if attributes.get("type") != "application/json"]


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return render(run)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_section_is_there_and_linked(page: Page) -> None:
    ids = {attributes.get("id") for tag, attributes in page.elements if tag == "section"}
    links = {attributes.get("href") for tag, attributes in page.elements if tag == "a"}
    for section in SECTIONS:
        if section.slug in ids and section.nav:
            assert f"#{section.slug}" in links
    assert {"answer", "validity", "summary", "distributions", "waterfall", "failures", "reproduce"} <= ids
    assert all(link is not None and link.startswith("#") and link[1:] in ids for link in links)


def test_it_tells_what_a_stranger_asks(page: Page) -> None:
    for expected in (
        "no verdict: needs 4 rounds, has 3",
        "failed and count as infinitely slow",
        "llmbench run mixed --set traffic.arrivals.rate=8",
        "ab12" * 16,
        "Example CPU @ 2.80GHz",
        "HTTP 500: CUDA error: out of memory",
        "needs",
    ):
        assert expected in page.text


def test_every_figure_says_what_it_shows(page: Page) -> None:
    plots = [attributes for tag, attributes in page.elements if attributes.get("class") == "plot"]
    assert len(plots) == len(page.figures) >= 8
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    captions = sum(tag == "figcaption" for tag, _ in page.elements)
    assert captions == len(plots)


def test_nothing_comes_from_the_network(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)


def test_only_the_two_known_scripts_may_run(html: str, page: Page) -> None:
    [policy] = [
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert "default-src 'none'" in policy
    hashes = ["sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.executed]
    assert len(hashes) == 2
    assert re.findall(r"'(sha256-[^']+)'", policy) == hashes


def test_it_is_small_enough_to_send_around(html: str) -> None:
    assert len(html.encode()) < 6_000_000


def test_levels_have_a_chooser_and_a_panel_each(sweep: Run) -> None:
    page = Page(render(sweep))
    shown = [attributes["data-show-level"] for _, attributes in page.elements if "data-show-level" in attributes]
    panels = {attributes["data-level"] for _, attributes in page.elements if "data-level" in attributes}
    assert panels == {"0", "1", "2"} == set(shown)


def hostile_run(make_run: MakeRun) -> Run:
    return make_run(
        [
            entry(0, engine=HOSTILE),
            entry(1, engine=HOSTILE, tokens=[], ok=False, error=HOSTILE + "\x1b[2J\u202e", error_kind="server_error"),
            entry(2, engine="b"),
        ],
        command=("llmbench", "run", HOSTILE),
        workload={"name": HOSTILE, "description": HOSTILE, "measure": {"slo": {}}},
        engines=(
            EngineManifest(label=HOSTILE, name=HOSTILE, command=(HOSTILE,), details={HOSTILE: HOSTILE}),
            EngineManifest(label="b", name="b"),
        ),
        environment={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}},
        problems=(HOSTILE,),
        invalid=(HOSTILE,),
    )


def test_text_from_elsewhere_stays_text(make_run: MakeRun) -> None:
    html = render(hostile_run(make_run))
    page = Page(html)
    assert len(page.executed) == 2
    assert not any(tag == "img" for tag, _ in page.elements)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "alert(2)" in page.text
    # Some versions of plotly have an escape character of their own.
    assert not set("\x1b\u202e") & set(html.replace(page.executed[0], ""))
    # Plotly reads `<…>` in a name as markup.
    assert not re.search(r'"name":"[^"]*<', json.dumps(page.figures, separators=(",", ":")))


def test_a_run_that_was_killed_is_reported(make_run: MakeRun) -> None:
    page = Page(render(make_run([entry(0), entry(1)], finish=False)))
    assert "has not come to its end" in page.text


@pytest.mark.parametrize("entries", [[], [entry(0, sent=None, tokens=[], end=5, ok=False)]])
def test_runs_with_nothing_to_draw_are_reported(make_run: MakeRun, entries: list[Any]) -> None:
    page = Page(render(make_run(entries)))
    assert "Run it again" in page.text


def test_answers_that_were_not_streamed_have_no_token_figures(make_run: MakeRun) -> None:
    run = make_run(
        [entry(index, tokens=[(20 + index, 5)]) for index in range(8)],
        workload={"name": "w", "request": {"stream": False}, "measure": {"slo": {}}},
    )
    page = Page(render(run))
    titles = [figure["layout"]["xaxis"]["title"]["text"] for figure in page.figures]
    assert "E2E (ms)" in titles
    assert "ITL (ms)" not in titles


def test_the_file_replaces_an_older_one(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_html(run, path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [path]
