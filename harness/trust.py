"""Whom a TLS connection believes."""

from __future__ import annotations

import ssl

from llmbench.harness.errors import ConfigError


def tls_context(ca: str | None) -> ssl.SSLContext:
    """A context that verifies certificates and host names against the PEM file `ca`; None trusts what the system does.

    Raises ConfigError for a file that cannot be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ConfigError(
            f"tls_ca: {ca} holds no certificate in PEM form, one that begins BEGIN CERTIFICATE."
        ) from None
    except OSError as error:
        raise ConfigError(f"tls_ca: {ca} cannot be read: {error.strerror or error}.") from None
