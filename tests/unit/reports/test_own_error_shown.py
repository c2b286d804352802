"""Where a run was calibrated, every latency is given with the instrument's own error."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich.console import Console
from synthetic_run import ALPHA, write_run

from llmbench.reports.console import print_summary
from llmbench.reports.exports import write_json
from llmbench.reports.html import render
from llmbench.reports.markdown import run_markdown
from llmbench.reports.material import Material
from llmbench.results.answer import answer
from llmbench.results.run import Run

# p99 of the calibration's errors that synthetic_run makes up, in ms.
ERRORS = {"ttft": 0.3, "ttft_send": 0.3, "itl": 0.1, "itl_chunk": 0.1, "tpot": 0.1, "e2e": 0.35, "e2e_send": 0.35}


def told(run: Run) -> str:
    file = io.StringIO()
    print_summary(run, Console(file=file, width=80))
    return file.getvalue()


def test_every_latency_of_the_page_has_it(run: Run) -> None:
    page = render(run)
    rows = re.findall(r"<tr>.*?</tr>", page[page.index('id="summary"') :], re.DOTALL)
    [alpha] = [row for row in rows if 'data-sort="alpha"' in row]
    for error in ("0.300", "0.100", "0.350"):
        assert f"±\u00a0{error}" in alpha
    quantiles = re.findall(r'<td class="number first?"? ?[^>]*data-sort="[\d.]+">[^<]+<span class="own">', alpha)
    assert len(quantiles) >= 4, "TTFT, ITL, TPOT and E2E"
    overview = page[page.index('id="overview"') : page.index('id="summary"')]
    values = re.findall(r'<span class="mark-value">([^<]+)', overview)
    assert sum("±" in value for value in values) >= 8


def test_console_markdown_json_and_answer_have_it(run: Run, tmp_path: Path) -> None:
    [line] = [line for line in told(run).splitlines() if line.startswith("instrument ")]
    assert line.split()[1:] == ["p99", "±0.300", "±0.100", "±0.100", "±0.350"]
    assert "the instrument's own error, p99: TTFT ±\u00a00.300 ms, ITL ±\u00a00.100 ms" in run_markdown(run)
    write_json(run, tmp_path / "run.json")
    for row in json.loads((tmp_path / "run.json").read_text())["rows"]:
        found = {name: metric.get("instrument_error_p99") for name, metric in row["metrics"].items() if metric}
        assert {name: error for name, error in found.items() if error is not None} == ERRORS
    alone = write_run(tmp_path / "alone", (ALPHA,), num_requests=40, num_tokens=8)
    assert "at the median, ± 0.3 ms of the instrument, then one every" in answer(alone)[0]


def test_a_level_without_a_calibration_claims_nothing(tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", num_requests=20, num_tokens=8, calibration=())
    assert Material(made).own_error("poisson 8/s", "ttft") == ""
    assert "±" not in told(made)
    assert "±" not in re.sub(r"<script.*?</script>", "", render(made), flags=re.DOTALL)
    assert "±" not in run_markdown(made)
