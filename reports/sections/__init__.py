"""The sections of the HTML report, in the order in which they are read. A new one is a file here and a line below."""

from __future__ import annotations

from llmbench.reports.section import Section
from llmbench.reports.sections.answer import ANSWER
from llmbench.reports.sections.arrivals import ARRIVALS
from llmbench.reports.sections.decode_profile import DECODE_PROFILE
from llmbench.reports.sections.differences import DIFFERENCES
from llmbench.reports.sections.distributions import DISTRIBUTIONS
from llmbench.reports.sections.environment import ENVIRONMENT
from llmbench.reports.sections.failures import FAILURES
from llmbench.reports.sections.instrument import INSTRUMENT
from llmbench.reports.sections.load_curves import LOAD_CURVES
from llmbench.reports.sections.metrics import METRICS_EXPLAINED
from llmbench.reports.sections.overview import OVERVIEW
from llmbench.reports.sections.populations import POPULATIONS
from llmbench.reports.sections.reproduce import REPRODUCE
from llmbench.reports.sections.same_answer import SAME_ANSWER
from llmbench.reports.sections.search import SEARCH
from llmbench.reports.sections.server_side import SERVER_SIDE
from llmbench.reports.sections.summary import SUMMARY
from llmbench.reports.sections.throughput import THROUGHPUT
from llmbench.reports.sections.validity import VALIDITY
from llmbench.reports.sections.waterfall import WATERFALL

SECTIONS: tuple[Section, ...] = (
    ANSWER,
    VALIDITY,
    SEARCH,
    OVERVIEW,
    LOAD_CURVES,
    SUMMARY,
    POPULATIONS,
    DIFFERENCES,
    SAME_ANSWER,
    DISTRIBUTIONS,
    WATERFALL,
    DECODE_PROFILE,
    THROUGHPUT,
    SERVER_SIDE,
    ARRIVALS,
    FAILURES,
    INSTRUMENT,
    METRICS_EXPLAINED,
    ENVIRONMENT,
    REPRODUCE,
)

assert len({section.slug for section in SECTIONS}) == len(SECTIONS)
