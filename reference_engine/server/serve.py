"""The server process from its start to its end: port, engine, uvicorn, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.server.app import Service
from llmbench.reference_engine.server.engine_client import EngineClient
from llmbench.reference_engine.server.errors import EngineDiedError, EngineStartError, StoppingError
from llmbench.reference_engine.server.intake import MAX_BODY_BYTES, Intake
from llmbench.reference_engine.server.logs import LogFormat, log
from llmbench.reference_engine.server.metrics import ServerMetrics
from llmbench.reference_engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmbench.reference_engine.server.grpc_service import GrpcServer

EXIT_CANNOT_START = 2
EXIT_ENGINE_DIED = 1
# Longer than a closed loop's pause between two requests: a client's idle connection should not be closed under it.
_KEEP_ALIVE_S = 75
_BACKLOG = 2048
# For the answers that have ended, by themselves or with the drain time, to be written.
_BEYOND_DRAIN_S = 2
# For the tasks of connections that were cut off to see it.
_CUT_OFF_S = 1
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What concerns the server and not the engine.

    port: 0 takes a free one; the log says which.
    max_waiting: requests that may wait for the engine beyond those it computes; one more is refused with 429.
    drain_s: how long running requests may go on after the server was told to stop; new ones are refused meanwhile.
    grpc_port: where gRPC is served too, None for not at all; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str
    max_waiting: int = 1024
    drain_s: int = 30
    grpc_port: int | None = None
    log_format: LogFormat = "text"


def serve(config: EngineConfig, server: ServerConfig) -> int:
    """Serve until SIGTERM, Ctrl-C or the engine's end; returns the exit code.

    Raises ReferenceEngineError if it cannot start.
    """
    tokenizer = Tokenizer(config.model_path)
    # Found now and kept: a large vocabulary takes a while, in which no other request would be served.
    _ = tokenizer.max_token_chars
    with _listen(server.host, server.port) as listener, asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(_Server(config, server, tokenizer).run(listener))


class _Uvicorn(uvicorn.Server):
    """With `linger_s` for clients to take their answers once it should exit."""

    linger_s: float = _BEYOND_DRAIN_S

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever does not take an answer by then is cut off, as one who has left; uvicorn would cancel the task that
        answers, and log that as an exception of ours."""
        cutting = asyncio.get_running_loop().call_later(self.linger_s, self._cut_off)
        self.config.timeout_graceful_shutdown = math.ceil(self.linger_s + _CUT_OFF_S)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
        if self.server_state.tasks:  # told twice to stop
            self._cut_off()
            await asyncio.wait(self.server_state.tasks, timeout=_CUT_OFF_S)

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own would send itself the signal again afterwards, and end the process before the engine is stopped.
        yield


class _Server:
    def __init__(self, config: EngineConfig, server: ServerConfig, tokenizer: Tokenizer) -> None:
        self._config = config
        self._server = server
        self._tokenizer = tokenizer
        self._exit_code = 0

    async def run(self, listener: socket.socket) -> int:
        name = self._server.model_name
        max_requests = self._config.max_num_seqs + self._server.max_waiting
        engine = EngineClient(self._on_death, max_requests, self._server.log_format)
        metrics = ServerMetrics(name, lambda: engine.stats)
        intake = Intake(engine, self._tokenizer, metrics, name)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                Service(intake).make_app(),
                ws="wsproto",
                ws_max_size=MAX_BODY_BYTES,
                # A compressed message costs time, and a client that stamps it stamps the compressor.
                ws_per_message_deflate=False,
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                lifespan="off",
            )
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number, intake)
        grpc_server = await self._start_grpc(intake)
        loading = asyncio.create_task(self._load(engine, listener))
        try:
            await self._uvicorn.serve(sockets=[listener])
        finally:
            loading.cancel()
            if grpc_server is not None:
                await grpc_server.stop(_BEYOND_DRAIN_S)
            engine.request_stop()
            await asyncio.to_thread(engine.stop)
        return self._exit_code

    async def _load(self, engine: EngineClient, listener: socket.socket) -> None:
        """Requests are answered 503 until this is done, and /health too."""
        try:
            await engine.start(self._config)
        except EngineStartError as error:
            sys.stderr.write(f"{error}\n")
            self._end(EXIT_CANNOT_START)
        except EngineDiedError:
            log.error("The engine process ended while it loaded the model.", model_path=str(self._config.model_path))
            self._end(EXIT_ENGINE_DIED)
        else:
            host, port = listener.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            log.info(f"serving {self._server.model_name} on {url}")

    async def _start_grpc(self, intake: Intake) -> GrpcServer | None:
        if self._server.grpc_port is None:
            return None
        try:
            from llmbench.reference_engine.server.grpc_service import GrpcServer
        except ImportError as error:
            raise ConfigError(f'--grpc-port needs grpcio ({error}): pip install "llmbench[grpc]"') from None
        server = GrpcServer(intake, self._server.host, self._server.grpc_port)
        await server.start()
        log.info(f"serving gRPC on port {server.port}")
        return server

    def _on_signal(self, number: int, intake: Intake) -> None:
        if intake.is_draining:  # told twice: now
            self._uvicorn.force_exit = self._uvicorn.should_exit
            self._uvicorn.should_exit = True
            return
        intake.is_draining = True
        self._draining = asyncio.create_task(self._drain(intake))

    async def _drain(self, intake: Intake) -> None:
        """Let running requests end for as long as they may; new ones are told to go elsewhere meanwhile."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._server.drain_s
        await self._wait_while(lambda: intake.engine.num_requests > 0, give_up)
        intake.engine.fail_all(StoppingError())
        # The answers are there; clients that read them slowly get what is left of the time.
        give_up = max(give_up, loop.time() + _BEYOND_DRAIN_S)
        await self._wait_while(lambda: intake.num_answering > 0, give_up)
        if not self._uvicorn.should_exit:
            self._uvicorn.linger_s = max(give_up - loop.time(), _BEYOND_DRAIN_S)
        self._uvicorn.should_exit = True

    async def _wait_while(self, is_so: Callable[[], bool], give_up: float) -> None:
        """Looked at again and again: an event would have to be set at every request's end, for one use in a life."""
        while is_so() and asyncio.get_running_loop().time() < give_up and not self._uvicorn.should_exit:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    def _on_death(self) -> None:
        log.error("The engine process ended unexpectedly; its requests have failed and the server stops.")
        self._end(EXIT_ENGINE_DIED)

    def _end(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._uvicorn.should_exit = True


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ConfigError in one sentence if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host} cannot be listened on: {error.strerror or error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now, and not when uvicorn does: of two servers that start at once, one learns it here.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"Port {port} on {host} cannot be listened on: {error.strerror or error}.") from None
    return listener
