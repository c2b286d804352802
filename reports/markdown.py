"""A run as Markdown, for a pull request's comment or a job's summary."""

from __future__ import annotations

import re
from itertools import groupby

from llmbench.reports.headline import headline
from llmbench.reports.material import Material
from llmbench.reports.numbers import count, digits, percent, quantile
from llmbench.reports.plain_text import one_line
from llmbench.results.run import Run
from llmbench.results.series import failures
from llmbench.results.summary import SummaryRow

_LATENCIES = (("ttft", "TTFT"), ("itl", "ITL"), ("tpot", "TPOT"), ("e2e", "E2E"))
_TOTALS = (
    ("output_throughput", "output tokens/s"),
    ("request_throughput", "requests/s"),
    ("goodput", "goodput, req/s"),
    ("slo_attainment", "SLO met"),
)


def run_markdown(run: Run) -> str:
    """The answer, what speaks against it, a table per load level, and what it takes to run it again."""
    material = Material(run)
    manifest = run.manifest
    lines = [f"### llmbench: {markdown_cell(str(material.workload.get('name', manifest.run_id)))}", ""]
    lines += [f"{markdown_cell(sentence)}  " for sentence in headline(material)]
    warnings = [f"> **Invalid:** {markdown_cell(reason)}" for reason in manifest.invalid]
    warnings += [f"> {markdown_cell(text)}" for text in manifest.problems if text not in manifest.invalid]
    if warnings:
        lines += ["", *(line for warning in warnings for line in (warning, ">"))][:-1]
    for level, group in groupby(material.summary.rows, key=lambda row: row.level):
        rows = list(group)
        lines += ["", f"**Load: {markdown_cell(level)}**", "", *_table(rows), ""]
        errors = [(title, error) for name, title in _LATENCIES if (error := material.own_error(level, name))]
        if errors:
            told = ", ".join(f"{title} {error} ms" for title, error in errors)
            lines.append(f"- the instrument's own error, p99: {told}")
        lines += [f"- window of {markdown_cell(row.engine)}: {markdown_cell(row.window)}" for row in rows]
    lines += ["", "Latencies in ms as p50 / p99, from when a request was due; a failed request counts as ∞."]
    for failure in failures(run):
        said = f", e.g. {markdown_cell(failure.example[:200])}" if failure.example else ""
        where = f"{markdown_cell(failure.engine)} at {markdown_cell(failure.level)}"
        lines.append(f"- {where}: {failure.num} × {markdown_cell(failure.kind)}{said}")
    digest = manifest.workload_digest[:12]
    lines += ["", f"<sub>run {markdown_cell(manifest.run_id)}, workload {markdown_cell(digest)}</sub>", ""]
    return "\n".join(lines)


def markdown_cell(text: str) -> str:
    """Any text on one line, harmless in a table: Markdown's and HTML's own characters are escaped."""
    escaped = re.sub(r"([\\`*_{}\[\]#|~!@])", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(rows: list[SummaryRow]) -> list[str]:
    latencies = [each for each in _LATENCIES if any(row.distribution(each[0]) is not None for row in rows)]
    totals = [each for each in _TOTALS if any(row.total(each[0]) is not None for row in rows)]
    titles = ["engine", "n", "failed", *(title for _, title in latencies), *(title for _, title in totals)]
    lines = [f"| {' | '.join(titles)} |", f"|{'|'.join([':--', *['--:'] * (len(titles) - 1)])}|"]
    for row in rows:
        cells = [markdown_cell(row.engine), count(row.num_requests), count(row.num_failed)]
        for name, _ in latencies:
            found = row.distribution(name)
            cells.append(f"{quantile(found, 0.5)} / {quantile(found, 0.99)}")
        for name, _ in totals:
            value = row.total(name)
            cells.append(percent(value) if name == "slo_attainment" else digits(value))
        lines.append(f"| {' | '.join(cells)} |")
    return lines
