"""Pages in a real browser: every picture is drawn, on paper too, the policy holds, sorting and load levels work."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import CHROMIUM, told_by
from synthetic_run import ALPHA, FakeEngine, write_run

from llmbench.reports.html import write_html
from llmbench.reports.trend_html import trend_html
from llmbench.results.figures import FIGURES
from llmbench.results.history import StoredRun, TrendPoint
from llmbench.results.trend import series_of

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")

# Runs in place of the reader: presses buttons, then sends what it saw.
READER = """
  const isDrawn = (plot) => plot.querySelector("svg.main-svg");
  // Pictures are drawn once a frame has shown that they are near: a busy machine takes its time over a frame.
  const drawing = async (plots) => {
    for (let i = 0; i < 200 && !plots.every(isDrawn); i++) {
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)));
    }
    return plots.filter(isDrawn).length;
  };
  const visible = [...document.querySelectorAll(".plot")].filter((plot) => plot.offsetParent);
  const drawn = await drawing(visible);
  const failed = [...document.querySelectorAll("table.sortable thead button")].find((b) => b.innerText == "Failed");
  failed.click();
  const up = [...document.querySelectorAll("table.sortable tbody tr")].map((row) => row.cells[3].dataset.sort);
  failed.click();
  const down = [...document.querySelectorAll("table.sortable tbody tr")].map((row) => row.cells[3].dataset.sort);
  document.querySelector("[data-show-level='1']").click();
  const second = [...document.querySelectorAll(".panel[data-level='1'] .plot")];
  const secondDrawn = await drawing(second);
  await fetch("/", { method: "POST", body: JSON.stringify({
    visible: visible.length, drawn, up, down,
    second: second.length, secondDrawn,
    wide: document.documentElement.scrollWidth, window: document.documentElement.clientWidth, ran: window.ran ?? null,
  }) });
"""


# A reader whose window shows the first pictures of a long page, and who then prints it.
PRINTER = """
  const isDrawn = (plot) => plot.querySelector("svg.main-svg");
  const plots = [...document.querySelectorAll(".plot")];
  const wait = async (enough) => {
    for (let i = 0; i < 200 && !enough(); i++) await new Promise((done) => setTimeout(done, 50));
  };
  let shift = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => { shift += entry.value; }))
    .observe({ type: "layout-shift", buffered: true });
  await wait(() => isDrawn(plots[0]));
  const near = plots.filter(isDrawn).length;
  dispatchEvent(new Event("beforeprint"));
  await wait(() => plots.every(isDrawn));
  const onPaper = plots.filter(isDrawn).length;
  dispatchEvent(new Event("afterprint"));
  await fetch("/", { method: "POST", body: JSON.stringify({ near, onPaper, all: plots.length, shift }) });
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = FakeEngine("</script><script>window.ran=1</script><img src=x onerror='window.ran=2'>", fails=0.2)
    folder = tmp_path_factory.mktemp("browser")
    run = write_run(folder / "run", engines=(ALPHA, hostile), rates=(4.0, 8.0), num_requests=16, num_tokens=12)
    write_html(run, folder / "report.html")
    return folder / "report.html"


def test_every_picture_is_drawn_and_nothing_overflows(page: Path) -> None:
    seen = told_by(page.read_text(encoding="utf-8"), READER, width=500, height=20000, kind="module")
    assert seen["visible"] == seen["drawn"] != 0
    assert seen["second"] == seen["secondDrawn"] != 0
    assert seen["wide"] == seen["window"]
    assert seen["ran"] is None
    assert seen["up"] == sorted(seen["up"], key=int)
    assert seen["down"] == sorted(seen["up"], key=int, reverse=True)


def test_a_long_page_draws_what_is_near_without_moving_and_all_of_it_on_paper() -> None:
    runs = [StoredRun(f"run{day}", f"2026-01-{day:02d}T00:00:00Z", "w", "c0ffee", "f0", "q") for day in range(1, 6)]
    points = [TrendPoint(run, 10.0 + index, 0.01, 40, 7) for index, run in enumerate(runs)]
    trends = [series for spec in FIGURES for series in series_of(spec, points)]
    html = trend_html(trends, engine="alpha", level="closed 4", hardware={})
    seen = told_by(html, PRINTER, width=1000, height=700, kind="module")
    assert seen["all"] == seen["onPaper"] == len(FIGURES)
    assert 0 < seen["near"] < seen["all"]
    assert seen["shift"] == 0
