"""An engine's own metrics, asked for once: what its map names, under the names that all engines share."""

from __future__ import annotations

import contextlib
import http.client
import math
import ssl
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from llmbench.engines.metric_map import MetricMap, MetricName
from llmbench.engines.wire import Endpoint
from llmbench.harness.probe import authorization, http_connection
from llmbench.results.telemetry import HISTOGRAM_PARTS, SPEC_BY_NAME, Value

_MAX_BYTES = 16 * 2**20


class GapError(Exception):
    """Nothing could be read; the message says why. It never holds what the server sent."""


def metrics_endpoint(endpoint: Endpoint, metrics: MetricMap, port: int | None) -> Endpoint:
    """Where the metrics of the engine at `endpoint` are; `port` overrides that of its map."""
    base_path = endpoint.base_path.rstrip("/").removesuffix("/v1")
    port = metrics.port if port is None else port
    if port is None or port == endpoint.port:
        return replace(endpoint, base_path=base_path, websocket=False)
    # A port of their own is a plain one, as the engines have it; it is not told the key of the other.
    return Endpoint(endpoint.host, port)


def scrape(endpoint: Endpoint, metrics: MetricMap) -> list[Value]:
    """What the engine says at this moment. Raises GapError."""
    values = mapped(_body(endpoint, metrics.path), metrics)
    if not values:
        raise GapError(f"{metrics.path} has none of the metrics that this engine is known to have.")
    return values


def mapped(text: str, metrics: MetricMap) -> list[Value]:
    """The values in an exposition that `metrics` names. Raises GapError for a text that is no exposition."""
    wanted = {name.name for names in metrics.samples.values() for name in names}
    wanted |= {name + part for name in wanted for part in HISTOGRAM_PARTS}
    # Most of what vLLM shows is not asked for, and the parser is what takes the time.
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in wanted]
    samples: dict[str, list[Sample]] = defaultdict(list)
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    samples[sample.name].append(sample)
        return [value for shared, names in metrics.samples.items() for value in _values(shared, names, samples)]
    except (ValueError, LookupError, TypeError):
        raise GapError(f"{metrics.path} does not answer in Prometheus' text format.") from None


def _values(shared: str, names: Iterable[MetricName], samples: Mapping[str, list[Sample]]) -> list[Value]:
    kind = SPEC_BY_NAME[shared].kind
    for name in names:
        if kind == "histogram":
            found = _histogram(shared, name, samples)
        else:
            amounts = [sample.value * name.scale for sample in _labelled(samples.get(name.name, ()), name)]
            total = sum(amounts) / (len(amounts) if kind == "share" and amounts else 1)
            found = [Value(shared, total)] if amounts else []
        if found:
            return found
    return []


def _histogram(shared: str, name: MetricName, samples: Mapping[str, list[Sample]]) -> list[Value]:
    below: dict[float, float] = defaultdict(float)
    for sample in _labelled(samples.get(f"{name.name}_bucket", ()), name):
        below[float(sample.labels["le"]) * name.scale] += sample.value
    found = [Value(f"{shared}_bucket", value, le) for le, value in sorted(below.items())]
    for part, scale in (("sum", name.scale), ("count", 1.0)):
        series = _labelled(samples.get(f"{name.name}_{part}", ()), name)
        if series:
            found.append(Value(f"{shared}_{part}", sum(sample.value for sample in series) * scale))
    return found


def _labelled(samples: Iterable[Sample], name: MetricName) -> list[Sample]:
    return [sample for sample in samples if set(name.labels) <= sample.labels.items()]


def _body(endpoint: Endpoint, path: str) -> str:
    headers = {"Accept": "text/plain", **authorization(endpoint)}
    try:
        with contextlib.closing(http_connection(endpoint)) as connection:
            connection.request("GET", endpoint.base_path + path, headers=headers)
            answer = connection.getresponse()
            body = answer.read(_MAX_BYTES)
    except TimeoutError:
        raise GapError(f"{path} did not answer in time.") from None
    except (ssl.SSLError, ValueError):
        raise GapError(f"{path} cannot be asked for: the connection cannot be secured as asked.") from None
    except (OSError, http.client.HTTPException) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise GapError(f"{path} does not answer ({why}).") from None
    if answer.status != http.client.OK:
        raise GapError(f"{path} answers with HTTP status {answer.status}.")
    return body.decode("utf-8", "replace")
