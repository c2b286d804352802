"""Every way a request can fail lands as its own kind, over a real socket."""

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmbench.engines.wire import Endpoint, FailureKind
from llmbench.workloads.spec import TimeoutSpec


def only(**timeouts: float) -> TimeoutSpec:
    """These timeouts, and none that a busy machine could run into before."""
    return TimeoutSpec(**{"connect_s": 60.0, "first_token_s": 60.0, "idle_s": 60.0, "total_s": 100.0, **timeouts})


def failure(done: dict[str, Any], request_id: str = "0") -> FailureKind:
    timeline = done[request_id]
    assert timeline.failure is not None, timeline
    assert timeline.failure.message.endswith(".")
    assert timeline.end_ns is not None
    return timeline.failure.kind


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_name_that_does_not_resolve(load: Any) -> None:
    _, done = load(Endpoint("no-such-host.invalid", 80), 2)
    assert failure(done, "0") is failure(done, "1") is FailureKind.DNS
    assert done["0"].connect_ns is None


def test_port_nobody_listens_on(load: Any) -> None:
    _, done = load(Endpoint("127.0.0.1", closed_port()), 3, concurrency=2)
    assert [failure(done, request_id) for request_id in "012"] == [FailureKind.CONNECT] * 3
    assert done["0"].connect_ns is None


def test_host_name_with_several_addresses(serve: Any, load: Any) -> None:
    # localhost is ::1 first on many machines, and this server listens on IPv4 alone.
    server = serve(lambda peer: peer.request() and peer.answer(b"x"))
    _, done = load(Endpoint("localhost", server.endpoint.port))
    assert done["0"].failure is None


def test_server_that_never_accepts(load: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        # One connection fills the queue; the kernel drops the SYN of the next.
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        _, done = load(Endpoint("127.0.0.1", port), timeouts=only(connect_s=0.3))
        for sock in waiting:
            sock.close()
    assert failure(done) is FailureKind.CONNECT_TIMEOUT
    assert done["0"].sent_ns is None


def test_first_token_timeout(serve: Any, load: Any) -> None:
    def only_head(peer: Any) -> None:
        peer.request()
        peer.head()
        peer.wait(60)

    _, done = load(serve(only_head).endpoint, timeouts=only(first_token_s=0.3))
    assert failure(done) is FailureKind.FIRST_TOKEN_TIMEOUT
    assert done["0"].status == 200
    assert done["0"].end_ns - done["0"].sent_ns >= 300_000_000


def test_a_server_that_does_not_take_the_request(serve: Any, load: Any) -> None:
    payload = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000
    _, done = load(serve(lambda peer: peer.wait(60)).endpoint, timeouts=only(first_token_s=0.3), payload=payload)
    assert failure(done) is FailureKind.FIRST_TOKEN_TIMEOUT
    assert done["0"].sent_ns is None


def test_idle_timeout(serve: Any, load: Any) -> None:
    def stall(peer: Any) -> None:
        peer.request()
        peer.head()
        peer.chunk(b"one")
        peer.wait(60)

    _, done = load(serve(stall).endpoint, timeouts=only(idle_s=0.3))
    assert failure(done) is FailureKind.IDLE_TIMEOUT
    assert done["0"].chunk_bytes == [b"one"]


def test_idle_deadline_is_shorter_than_the_first_token_deadline(serve: Any, load: Any) -> None:
    def stall(peer: Any) -> None:
        peer.request()
        peer.head()
        peer.wait(0.1)
        peer.chunk(b"one")
        peer.wait(30)

    _, done = load(serve(stall).endpoint, timeouts=only(idle_s=0.3))
    assert failure(done) is FailureKind.IDLE_TIMEOUT
    # Noticed when it passed, not when the longer deadline would have: far below 60 s on the busiest machine.
    assert done["0"].end_ns - done["0"].chunk_ns[-1] < 20_000_000_000


def test_total_timeout(serve: Any, load: Any) -> None:
    def drip(peer: Any) -> None:
        peer.request()
        peer.head()
        while not peer.server.closing.is_set():
            peer.chunk(b"drop")
            peer.wait(0.02)

    _, done = load(serve(drip).endpoint, timeouts=only(total_s=0.7))
    assert failure(done) is FailureKind.TOTAL_TIMEOUT
    assert done["0"].end_ns - done["0"].sent_ns >= 700_000_000


def test_answer_cut_in_mid_stream(serve: Any, load: Any) -> None:
    def cut(peer: Any) -> None:
        peer.request()
        peer.head()
        peer.chunk(b"one")

    _, done = load(serve(cut).endpoint)
    assert failure(done) is FailureKind.TRUNCATED
    assert done["0"].chunk_bytes == [b"one"]


def test_connection_reset_in_mid_stream(serve: Any, load: Any) -> None:
    def reset(peer: Any) -> None:
        peer.request()
        peer.head()
        peer.chunk(b"one")
        peer.wait(0.1)
        peer.reset()

    _, done = load(serve(reset).endpoint)
    assert failure(done) is FailureKind.TRUNCATED


def test_closed_without_a_byte(serve: Any, load: Any) -> None:
    server = serve(lambda peer: peer.request())
    _, done = load(server.endpoint)
    assert failure(done) is FailureKind.TRUNCATED
    assert "first byte" in done["0"].failure.message
    assert server.num_connections == 1  # a request that was sent is never sent again


def test_an_answer_before_the_request_was_taken(serve: Any, load: Any) -> None:
    def refuse(peer: Any) -> None:
        peer.socket.recv(1000)
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        peer.socket.shutdown(socket.SHUT_WR)
        while peer.socket.recv(1 << 20):
            pass

    payload = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000
    _, done = load(serve(refuse).endpoint, payload=payload)
    assert done["0"].failure is None
    assert done["0"].status == 413


def test_not_http(serve: Any, load: Any) -> None:
    _, done = load(serve(lambda peer: peer.request() and peer.send(b"220 mail ready\r\n")).endpoint)
    assert failure(done) is FailureKind.MALFORMED


def test_an_error_status_is_no_failure_of_the_transport(serve: Any, load: Any) -> None:
    answer = b"HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}"
    _, done = load(serve(lambda peer: peer.request() and peer.send(answer)).endpoint)
    assert done["0"].failure is None
    assert done["0"].status == 429
    assert ("Retry-After", "3") in done["0"].headers
    assert done["0"].chunk_bytes == [b"{}"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out", path],
        check=True,
        capture_output=True,
    )
    return path


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_with_a_certificate_nobody_vouches_for(serve: Any, load: Any, certificate: Path) -> None:
    server = serve(lambda peer: peer.request() and peer.answer(b"x"), tls=server_context(certificate))
    _, done = load(Endpoint("localhost", server.endpoint.port, tls=True))
    assert failure(done) is FailureKind.TLS
    assert "certificate" in done["0"].failure.message


def test_tls_against_a_plain_server(serve: Any, load: Any) -> None:
    server = serve(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    _, done = load(Endpoint("localhost", server.endpoint.port, tls=True))
    assert failure(done) is FailureKind.TLS


def test_tls_with_a_trusted_certificate(
    serve: Any, load: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(peer: Any) -> None:
        while peer.request():
            peer.answer(b"one", b"two", b"x" * 100_000)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(talk, tls=server_context(certificate))
    _, done = load(Endpoint("localhost", server.endpoint.port, tls=True), 3)
    assert [done[request_id].failure for request_id in "012"] == [None] * 3
    assert b"".join(done["2"].chunk_bytes) == b"onetwo" + b"x" * 100_000
    assert done["0"].connect_ns < done["0"].sent_ns < done["0"].end_ns
    assert server.num_connections == 1


def test_tls_wrong_host_name(serve: Any, load: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(lambda peer: peer.request() and peer.answer(b"x"), tls=server_context(certificate))
    _, done = load(Endpoint("127.0.0.1", server.endpoint.port, tls=True))
    assert failure(done) is FailureKind.TLS


def test_tls_cut_in_mid_stream(serve: Any, load: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(peer: Any) -> None:
        peer.request()
        peer.head()
        peer.chunk(b"one")

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(cut, tls=server_context(certificate))
    _, done = load(Endpoint("localhost", server.endpoint.port, tls=True))
    assert failure(done) is FailureKind.TRUNCATED
    assert done["0"].chunk_bytes == [b"one"]
