"""The report in a real browser: every picture is drawn, the policy holds, sorting and load levels work."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest
from synthetic_run import ALPHA, FakeEngine, write_run

from llmbench.reports.html import write_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")

# Runs in place of the reader: presses buttons, then sends what it saw.
READER = """
<script type="module">
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
</script>
"""


def browse(page: Path, width: int) -> dict[str, Any]:
    """What READER saw. The page's policy is widened for READER's script and its message, and for nothing else."""
    html = page.read_text(encoding="utf-8")
    body = READER.split(">", 1)[1].rsplit("</script>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    policy = f"connect-src 'self'; script-src 'sha256-{digest}' "
    probed = html.replace("script-src ", policy, 1).replace("</body>", READER.strip() + "</body>")
    seen: SimpleQueue[dict[str, Any]] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(probed.encode())

        def do_POST(self) -> None:
            seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},20000",
            f"http://127.0.0.1:{server.server_port}/",
        ]
        chromium = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return seen.get(timeout=90)
        finally:
            os.killpg(chromium.pid, signal.SIGKILL)
            chromium.wait()
            server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = FakeEngine("</script><script>window.ran=1</script><img src=x onerror='window.ran=2'>", fails=0.2)
    folder = tmp_path_factory.mktemp("browser")
    run = write_run(folder / "run", engines=(ALPHA, hostile), rates=(4.0, 8.0), num_requests=16, num_tokens=12)
    write_html(run, folder / "report.html")
    return folder / "report.html"


def test_every_picture_is_drawn_and_nothing_overflows(page: Path) -> None:
    seen = browse(page, width=500)
    assert seen["visible"] == seen["drawn"] != 0
    assert seen["second"] == seen["secondDrawn"] != 0
    assert seen["wide"] == seen["window"]
    assert seen["ran"] is None
    assert seen["up"] == sorted(seen["up"], key=int)
    assert seen["down"] == sorted(seen["up"], key=int, reverse=True)
