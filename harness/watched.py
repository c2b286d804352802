"""Which telemetry there is of an engine in use, found out from how it was started or attached to."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import replace

from llmbench.engines import registry
from llmbench.engines.adapter import Adapter
from llmbench.engines.metric_map import ANY
from llmbench.engines.wire import Endpoint
from llmbench.harness.process import EngineProcess
from llmbench.harness.prometheus import metrics_endpoint
from llmbench.harness.telemetry import Watched, visible_gpus
from llmbench.workloads.spec import EngineSpec


def watched(engine: EngineSpec, adapter: Adapter, endpoint: Endpoint, process: EngineProcess | None) -> Watched:
    """What to read of `engine`, which answers at `endpoint`; `process` is None where it was not started here."""
    metrics = adapter.capabilities.metrics
    where = None
    if engine.metrics_url is not None:
        # The key that the engine is asked with is not for whoever listens there.
        told = registry.url_endpoint(engine.metrics_url, tls_ca=engine.tls_ca)
        where, metrics = replace(told, base_path=""), replace(metrics or ANY, path=told.base_path or "/metrics")
    elif metrics is not None:
        where = metrics_endpoint(endpoint, metrics, None if process is None else process.plan.metrics_port)
    env = dict(os.environ) if process is None else {**os.environ, **process.plan.env}
    return Watched(
        label=engine.label,
        metrics=metrics,
        endpoint=where,
        pid=None if process is None else process.pid,
        on_this_host=process is not None or _is_here(endpoint),
        visible_gpus=visible_gpus(env),
    )


def _is_here(endpoint: Endpoint) -> bool:
    if endpoint.unix_path is not None or endpoint.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return False
