"""How long the report of a large run takes to make, and to show its first content in headless Chromium.

    python tests/benchmarks/first_paint.py --requests 100000 --loads 5

Writes a made-up run of two engines, makes its report, and serves it on loopback. The time is the browser's own
`first-contentful-paint`, counted from the start of the navigation; each load is of a fresh browser without a cache.
Ends in 1 where the report takes 10 s or more, is 6 MB or larger, or half the loads take 1 s or more to paint.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

sys.path.insert(0, str(Path(__file__).parent))

from large_run import write_run

from llmbench.reports.html import write_html
from llmbench.results.run import Run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
TELL = """
new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) {
    fetch("/", { method: "POST", body: JSON.stringify(entry.startTime) });
  }
}).observe({ type: "paint", buffered: true });
"""


def first_paint_ms(html: str, folder: Path) -> float:
    """Of one load of `html`, whose policy is widened for TELL alone."""
    digest = base64.b64encode(hashlib.sha256(TELL.encode()).digest()).decode()
    policy = f"connect-src 'self'; script-src 'sha256-{digest}' "
    probed = html.replace("script-src ", policy, 1).replace("</body>", f"<script>{TELL}</script></body>").encode()
    told: SimpleQueue[float] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(probed)

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options += [f"--user-data-dir={folder}", "--window-size=1280,900"]
        command = [CHROMIUM, *options, f"http://127.0.0.1:{server.server_port}/"]
        chromium = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return told.get(timeout=90)
        finally:
            os.killpg(chromium.pid, signal.SIGKILL)
            chromium.wait()
            server.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--loads", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, asked.requests, asked.chunks)
        begun, begun_cpu = time.perf_counter(), time.process_time()
        write_html(Run.open(folder), folder / "report.html")
        made_s, made_cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
        html = (folder / "report.html").read_text(encoding="utf-8")
        size_mb = len(html.encode()) / 1e6
        paints = [first_paint_ms(html, folder / f"profile-{number}") for number in range(asked.loads)]
    median = statistics.median(paints)
    print(f"report: {made_s:.1f} s ({made_cpu_s:.1f} s of CPU), {size_mb:.2f} MB")
    print(f"first paint: median {median:.0f} ms, {', '.join(f'{each:.0f}' for each in paints)}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    return int(made_s >= 10 or size_mb >= 6 or median >= 1000)


if __name__ == "__main__":
    sys.exit(main())
