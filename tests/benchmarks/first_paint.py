"""How long the report of a large run takes to make, and to show its first content in headless Chromium.

    python tests/benchmarks/first_paint.py --requests 100000 --loads 5

Writes a made-up run of two engines, makes its report, and serves it on loopback. The time is the browser's own
`first-contentful-paint`, counted from the start of the navigation; each load is of a browser without a cache that has
just shown an empty page, so that its own start does not count.
Ends in 1 where the report takes 10 s or more, is 6 MB or larger, or half the loads take 1 s or more to paint.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

from browser import told_by
from large_run import write_run

from llmbench.reports.html import write_html
from llmbench.results.run import Run

TELL = """
new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) {
    fetch("/", { method: "POST", body: JSON.stringify(entry.startTime) });
  }
}).observe({ type: "paint", buffered: true });
"""


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
        paints = [told_by(html, TELL, width=1280, height=900, warm=True) for _ in range(asked.loads)]
    median = statistics.median(paints)
    print(f"report: {made_s:.1f} s ({made_cpu_s:.1f} s of CPU), {size_mb:.2f} MB")
    print(f"first paint: median {median:.0f} ms, {', '.join(f'{each:.0f}' for each in paints)}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    return int(made_s >= 10 or size_mb >= 6 or median >= 1000)


if __name__ == "__main__":
    sys.exit(main())
