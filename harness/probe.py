"""Questions to a server before it is measured, by its routes for people and monitors."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping

from llmbench.engines.wire import Endpoint
from llmbench.harness.trust import tls_context

_PROBE_S = 5.0


class _UnixHttpConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def http_connection(endpoint: Endpoint) -> http.client.HTTPConnection:
    """A connection to `endpoint`, yet to be opened; with TLS it trusts whom the endpoint says."""
    if endpoint.unix_path is not None:
        return _UnixHttpConnection(endpoint.unix_path, _PROBE_S)
    if endpoint.tls:
        context = tls_context(endpoint.tls_ca)
        return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=_PROBE_S, context=context)
    return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=_PROBE_S)


def authorization(endpoint: Endpoint) -> Mapping[str, str]:
    """The header that carries the endpoint's key, if it has one."""
    return {} if endpoint.api_key is None else {"Authorization": f"Bearer {endpoint.api_key}"}


def knock(endpoint: Endpoint, timeout_s: float) -> None:
    """Connect and hang up. Raises OSError where nobody listens."""
    if endpoint.unix_path is None:
        socket.create_connection((endpoint.host, endpoint.port), timeout_s).close()
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(endpoint.unix_path)
