"""The gate's verdict as JUnit XML: a test suite per load level, a test case per figure."""

from __future__ import annotations

from itertools import groupby
from xml.etree import ElementTree

from llmbench.reports.plain_text import one_line
from llmbench.results.gate import GateCase, GateResult


def gate_junit(result: GateResult) -> str:
    """XML that CI systems show test by test: a slower figure is a failure, one that could not be tested is skipped,
    and where nothing may be compared the suite holds an error that says why."""
    suites = ElementTree.Element("testsuites", name="llmbench gate")
    if result.reasons:
        suite = _suite(suites, "comparability", num_tests=1, errors=1)
        case = ElementTree.SubElement(suite, "testcase", classname="llmbench.gate", name="comparable with the baseline")
        ElementTree.SubElement(case, "error", message=_text(result.reasons[0])).text = _text("\n".join(result.reasons))
    for (subject, level), group in groupby(
        result.cases, key=lambda case: (case.comparison.subject, case.comparison.level)
    ):
        cases = list(group)
        suite = _suite(
            suites,
            f"{subject} at {level}",
            num_tests=len(cases),
            failures=sum(case.outcome == "failed" for case in cases),
            skipped=sum(case.outcome == "undecided" for case in cases),
        )
        for each in cases:
            _add(suite, each)
    for key in ("tests", "failures", "errors", "skipped"):
        suites.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _suite(
    suites: ElementTree.Element, name: str, *, num_tests: int, failures: int = 0, errors: int = 0, skipped: int = 0
) -> ElementTree.Element:
    counts = {"tests": num_tests, "failures": failures, "errors": errors, "skipped": skipped}
    return ElementTree.SubElement(
        suites, "testsuite", {"name": _text(name)} | {key: str(value) for key, value in counts.items()}
    )


def _add(suite: ElementTree.Element, gate_case: GateCase) -> None:
    comparison = gate_case.comparison
    where = _text(f"{comparison.subject}.{comparison.level}")
    case = ElementTree.SubElement(suite, "testcase", classname=where, name=comparison.spec.title)
    match gate_case.outcome:
        case "failed":
            ElementTree.SubElement(case, "failure", message=_text(gate_case.why)).text = _text(gate_case.why)
        case "undecided":
            ElementTree.SubElement(case, "skipped", message=_text(gate_case.why))
        case _:
            ElementTree.SubElement(case, "system-out").text = _text(gate_case.why)


def _text(text: str) -> str:
    # XML 1.0 has no way to write most control characters, escaped or not; plain text shows them as escapes.
    return "\n".join(one_line(line) for line in text.split("\n")).replace("\ufffe", "?").replace("\uffff", "?")
