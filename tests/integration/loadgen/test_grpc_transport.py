"""Loads over gRPC against a server of the library's own, whose every call follows a script."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmbench.engines.wire import Endpoint, FailureKind, Timeline, WireRequest
from llmbench.harness.loadgen import LoadReport, Outgoing, StopFlag, run_load
from llmbench.workloads.spec import TimeoutSpec

grpc = pytest.importorskip("grpc", reason="the extra llmbench[grpc] is not installed")

METHOD = "/test.Service/Stream"
Script = Callable[[bytes, Any], Iterator[bytes]]


class Handler(grpc.GenericRpcHandler):
    def __init__(self, script: Script) -> None:
        self._script = script

    def service(self, details: Any) -> Any:
        if details.method != METHOD:
            return None
        return grpc.unary_stream_rpc_method_handler(self._script)


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Endpoint]]:
    """`serve(script, credentials=…, address=…)` starts a server that is gone after the test."""
    servers = []

    def start(script: Script, credentials: Any = None, address: str = "127.0.0.1:0") -> Endpoint:
        server = grpc.server(ThreadPoolExecutor(16))
        server.add_generic_rpc_handlers((Handler(script),))
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        server.start()
        servers.append(server)
        return Endpoint("127.0.0.1", port, api_key="secret")

    yield start
    for server in servers:
        server.stop(grace=None).wait()


def load(
    endpoint: Endpoint, num: int = 1, *, method: str = METHOD, **timeouts: float
) -> tuple[list[Timeline], LoadReport]:
    wire = WireRequest("grpc", endpoint, b"question", method)
    done: dict[str, Timeline] = {}
    report = run_load(
        [Outgoing(str(index), None, wire) for index in range(num)],
        concurrency=4,
        timeouts=TimeoutSpec(**timeouts),
        on_done=done.__setitem__,
        stop=StopFlag(),
    )
    return list(done.values()), report


def test_messages_come_stamped_and_as_they_were_sent(serve) -> None:
    asked = []

    def script(question: bytes, context: Any) -> Iterator[bytes]:
        asked.append((question, dict(context.invocation_metadata()).get("authorization")))
        for index in range(3):
            yield b"%d" % index
            time.sleep(0.02)

    timelines, report = load(serve(script), num=8)
    assert len(timelines) == 8
    for timeline in timelines:
        assert timeline.failure is None
        assert timeline.chunk_bytes == [b"0", b"1", b"2"]
        assert timeline.headers == [("content-type", "application/grpc")]
        stamps = [timeline.due_ns, timeline.begun_ns, timeline.connect_ns, timeline.sent_ns, timeline.first_byte_ns]
        stamps += [*timeline.chunk_ns[1:], timeline.end_ns]
        assert stamps == sorted(stamps)
    assert asked == [(b"question", "Bearer secret")] * 8
    assert report.instrument.clock == "user space"


def answer(question: bytes, context: Any) -> Iterator[bytes]:
    yield b"answer"


def test_tls_with_an_authority_of_ones_own(serve, tmp_path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = serve(answer, credentials, "localhost:0").port
    [timeline], _ = load(Endpoint("localhost", port, tls=True, tls_ca=str(certificate)))
    assert (timeline.chunk_bytes, timeline.failure) == ([b"answer"], None)
    # The system trusts nobody of that name.
    [timeline], _ = load(Endpoint("localhost", port, tls=True))
    assert timeline.failure.kind is FailureKind.CONNECT


def test_a_unix_socket(serve, tmp_path) -> None:
    path = str(tmp_path / "grpc.sock")
    serve(answer, address=f"unix:{path}")
    [timeline], _ = load(Endpoint("localhost", 1, unix_path=path))
    assert (timeline.chunk_bytes, timeline.failure) == ([b"answer"], None)


def test_a_stall_shows_in_the_stamps(serve) -> None:
    def script(question: bytes, context: Any) -> Iterator[bytes]:
        yield b"a"
        time.sleep(0.3)
        yield b"b"

    [timeline], _ = load(serve(script))
    assert timeline.chunk_ns[1] - timeline.chunk_ns[0] >= 290_000_000


def test_an_error_after_the_first_message_keeps_the_message(serve) -> None:
    def script(question: bytes, context: Any) -> Iterator[bytes]:
        yield b"a"
        context.abort(grpc.StatusCode.INTERNAL, "out of\nmemory")

    [timeline], _ = load(serve(script))
    assert timeline.chunk_bytes == [b"a"]
    assert timeline.failure.kind is FailureKind.SERVER_ERROR
    assert timeline.failure.message == "The call ended with INTERNAL: out of memory"


@pytest.mark.parametrize(
    ("code", "kind"),
    [("RESOURCE_EXHAUSTED", FailureKind.RATE_LIMITED), ("INVALID_ARGUMENT", FailureKind.SERVER_ERROR)],
)
def test_a_refusal_is_a_failure_of_its_kind(serve, code, kind) -> None:
    def script(question: bytes, context: Any) -> Iterator[bytes]:
        context.abort(grpc.StatusCode[code], "no")

    [timeline], _ = load(serve(script))
    assert (timeline.failure.kind, timeline.failure.message) == (kind, f"The call ended with {code}: no")


def test_an_unknown_method_says_so(serve) -> None:
    [timeline], _ = load(serve(lambda question, context: iter(())), method="/test.Service/Other")
    assert timeline.failure.kind is FailureKind.SERVER_ERROR
    # Which of the two depends on whether the refusal came while the request was still going out.
    assert timeline.failure.message.startswith(("The call ended with UNIMPLEMENTED", "The server refused the call"))


def test_nobody_listens() -> None:
    timelines, _ = load(Endpoint("127.0.0.1", 1), num=3)
    assert [timeline.failure.kind for timeline in timelines] == [FailureKind.CONNECT] * 3


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [("first_token_s", FailureKind.FIRST_TOKEN_TIMEOUT), ("total_s", FailureKind.TOTAL_TIMEOUT)],
)
def test_a_silent_server_runs_into_its_timeout_and_is_told(serve, timeout, kind) -> None:
    ended = []

    def script(question: bytes, context: Any) -> Iterator[bytes]:
        begun = time.perf_counter()
        while context.is_active() and time.perf_counter() < begun + 5:
            time.sleep(0.02)
        ended.append(time.perf_counter() - begun)
        yield b"late"

    endpoint = serve(script)
    [timeline], _ = load(endpoint, **{timeout: 0.3})
    assert timeline.failure.kind is kind
    deadline = time.perf_counter() + 5
    while not ended and time.perf_counter() < deadline:
        time.sleep(0.02)
    assert ended[0] < 5


def test_a_call_that_must_not_be_cancelled_goes_on_unheard(serve) -> None:
    seen_active = []

    def script(question: bytes, context: Any) -> Iterator[bytes]:
        if not seen_active:
            seen_active.append(True)
            time.sleep(0.6)
            seen_active[0] = context.is_active()
        yield b"answer"

    endpoint = serve(script)
    wire = WireRequest("grpc", endpoint, b"question", METHOD, may_cancel=False)
    done: dict[str, Timeline] = {}
    run_load(
        [Outgoing("slow", 0, wire), Outgoing("later", 900_000_000, wire)],
        concurrency=None,
        timeouts=TimeoutSpec(first_token_s=0.3, total_s=5.0),
        on_done=done.__setitem__,
        stop=StopFlag(),
    )
    assert done["slow"].failure.kind is FailureKind.FIRST_TOKEN_TIMEOUT
    assert done["slow"].chunk_bytes == []
    assert done["later"].chunk_bytes == [b"answer"]
    assert seen_active == [True]
