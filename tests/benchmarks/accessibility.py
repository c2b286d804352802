"""What axe-core finds wrong with the report, the comparison and the trend in headless Chromium, light and dark.

    python tests/benchmarks/accessibility.py

Fetches axe-core with npm into a temporary folder. Prints each violation, at 1280 and 390 px, with the elements it is
about; ends in 1 if there is any.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import CHROMIUM
from full_run import write_full_run

from llmbench.reports.comparison_html import write_comparison_html
from llmbench.reports.html import write_html
from llmbench.reports.trend_html import write_trend_html
from llmbench.results.comparison_set import compare_engines
from llmbench.results.figures import FIGURE_BY_NAME
from llmbench.results.history import StoredRun, TrendPoint
from llmbench.results.matching import side_of
from llmbench.results.trend import series_of

ASK = """
axe.run(document, {resultTypes: ["violations"]}).then((found) => {
  const violations = found.violations.map((each) => ({
    id: each.id, help: each.help, nodes: each.nodes.map((node) => node.target.join(" ")),
  }));
  document.title = "axe:" + JSON.stringify({violations, passes: found.passes.length});
});
"""


def violations(page: Path, axe: str, width: int, theme: str, folder: Path) -> tuple[list[dict[str, object]], int]:
    """What axe found, and how many of its rules passed. The page's policy is widened for these two scripts alone."""
    scripts = [script.replace("</script", "<\\/script") for script in (axe, ASK)]
    html = page.read_text(encoding="utf-8")
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    if "script-src " in html:
        html = html.replace("script-src ", f"script-src {hashes} ", 1)
    else:  # the comparison page allows no script at all
        html = html.replace("default-src 'none'; ", f"default-src 'none'; script-src {hashes}; ", 1)
    tags = "".join(f"<script>{script}</script>" for script in scripts)
    probed = folder / f"probed-{page.stem}.html"
    probed.write_text(html.replace("</body>", f"{tags}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += [f"--window-size={width},4000", "--virtual-time-budget=20000", "--dump-dom"]
    options += ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
    command = [CHROMIUM, *options, probed.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    found = re.search(r"<title>axe:(.*?)</title>", dom)
    if found is None:
        raise SystemExit(f"axe did not come to its end on {page.name}.")
    seen = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    return seen["violations"], seen["passes"]


def write_pages(folder: Path) -> list[Path]:
    run = write_full_run(folder / "run")
    report, comparison, trend = (folder / f"{name}.html" for name in ("report", "comparison", "trend"))
    write_html(run, report)
    write_comparison_html(compare_engines(side_of(run)), comparison)
    points = [
        TrendPoint(
            StoredRun(f"run{day}", f"2026-03-{day:02d}T10:00:00Z", "full", f"{day:040x}", "f0", "q"),
            10.0 + 0.1 * (day % 3) + 2 * (day > 10),
            0.01,
            40,
            7,
        )
        for day in range(1, 21)
    ]
    trends = [
        series for name in ("tpot_p50", "output_throughput") for series in series_of(FIGURE_BY_NAME[name], points)
    ]
    write_trend_html(trends, trend, engine="alpha", level="poisson 8/s", hardware={"f0": {"cpu": "Some CPU"}})
    return [report, comparison, trend]


def main() -> int:
    total = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packed = subprocess.run(
            ["npm", "pack", "axe-core", "--silent"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        with tarfile.open(folder / packed) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            axe = member.read().decode("utf-8")
        for page in write_pages(folder):
            for width in (1280, 390):
                for theme in ("light", "dark"):
                    found, passes = violations(page, axe, width, theme, folder)
                    total += len(found)
                    print(
                        f"{page.name} at {width} px, {theme}: {len(found)} violations, {passes} rules pass ({packed})"
                    )
                    for each in found:
                        print(f"  {each['id']}: {each['help']}: {each['nodes']}")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
