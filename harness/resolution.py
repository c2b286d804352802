"""Where an endpoint's name leads."""

from __future__ import annotations

import socket

from llmbench.engines.wire import Endpoint, Failure, FailureKind
from llmbench.harness.connection import Address


def resolve(endpoint: Endpoint) -> list[Address] | Failure:
    """All addresses of the endpoint's host, best first; a DNS failure where there are none."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Failure(FailureKind.DNS, f"The host name {endpoint.host} could not be resolved: {reason}.")
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]
