"""A port for a server's second listener, where the harness chose the first."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A loopback port that nobody listens on; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
