"""TLS with an authority of one's own: trusted where the endpoint names it, and verified all the same."""

from __future__ import annotations

import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmbench.engines.wire import Endpoint, FailureKind
from llmbench.harness.errors import ConfigError

CURVE = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"


@dataclass(frozen=True)
class Authority:
    """`ca` is what clients trust, `server` the certificate for localhost that it signed, with its key."""

    ca: Path
    server: Path


def openssl(folder: Path, command: str, *more: str) -> None:
    subprocess.run(["openssl", *command.split(), *more], check=True, capture_output=True, cwd=folder)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    openssl(folder, f"req -x509 {CURVE} -subj /CN=authority -keyout ca.key -out ca.pem")
    openssl(folder, f"req {CURVE} -subj /CN=localhost -keyout server.key -out server.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl(
        folder, "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out own.pem"
    )
    both = folder / "server.pem"
    both.write_text((folder / "own.pem").read_text() + (folder / "server.key").read_text())
    return Authority(folder / "ca.pem", both)


@pytest.fixture
def port(serve: Any, authority: Authority) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server)

    def talk(peer: Any) -> None:
        while peer.request():
            peer.answer(b"one", b"two")

    return int(serve(talk, tls=context).endpoint.port)


def test_trusted_where_the_endpoint_names_it(port: int, load: Any, authority: Authority) -> None:
    report, done = load(Endpoint("localhost", port, tls=True, tls_ca=str(authority.ca)), 3)
    assert [timeline.failure for timeline in done.values()] == [None] * 3
    assert b"".join(done["0"].chunk_bytes) == b"onetwo"
    assert report.instrument.clock == "user space"


def test_a_slow_handshake_is_in_the_latency_and_not_laid_to_the_load_generator(
    serve: Any, load: Any, authority: Authority
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server)

    class Slow:
        def wrap_socket(self, sock: Any, server_side: bool) -> ssl.SSLSocket:
            time.sleep(0.2)
            return context.wrap_socket(sock, server_side=server_side)

    def talk(peer: Any) -> None:
        while peer.request():
            peer.answer(b"one")

    port = serve(talk, tls=Slow()).endpoint.port
    _, done = load(Endpoint("localhost", port, tls=True, tls_ca=str(authority.ca)), [0.0, 0.6])
    first, second = done["0"], done["1"]
    assert first.sent_ns - first.due_ns >= 200_000_000
    assert first.connecting_ns >= 200_000_000
    assert first.sent_ns - first.due_ns - first.connecting_ns < 100_000_000
    assert second.connecting_ns == 0, "the connection was kept"


def test_the_system_does_not_trust_it(port: int, load: Any) -> None:
    _, done = load(Endpoint("localhost", port, tls=True))
    assert done["0"].failure.kind is FailureKind.TLS
    assert "unable to get local issuer certificate" in done["0"].failure.message


def test_its_certificate_is_good_for_its_own_name_alone(port: int, load: Any, authority: Authority) -> None:
    _, done = load(Endpoint("127.0.0.1", port, tls=True, tls_ca=str(authority.ca)))
    assert done["0"].failure.kind is FailureKind.TLS
    assert "IP address mismatch" in done["0"].failure.message
    assert done["0"].failure.message.endswith("'127.0.0.1'.")


def test_two_endpoints_each_with_its_own(port: int, load: Any, authority: Authority, tmp_path: Path) -> None:
    # Another authority, of the same name: what one endpoint trusts is not trusted for the other.
    openssl(tmp_path, f"req -x509 {CURVE} -subj /CN=authority -keyout other.key -out other.pem")
    _, done = load(Endpoint("localhost", port, tls=True, tls_ca=str(tmp_path / "other.pem")))
    assert done["0"].failure.kind is FailureKind.TLS
    assert "certificate" in done["0"].failure.message


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read: No such file or directory"), ("none", "holds no certificate")]
)
def test_a_file_that_is_no_authority(load: Any, tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=problem):
        load(Endpoint("localhost", 1, tls=True, tls_ca=str(path)))
