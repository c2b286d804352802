"""The server process from its start to its end: port, engine, uvicorn, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.server.app import Service
from llmbench.reference_engine.server.engine_client import EngineClient
from llmbench.reference_engine.server.errors import EngineDiedError, EngineStartError
from llmbench.reference_engine.server.metrics import ServerMetrics
from llmbench.reference_engine.tokenizer import Tokenizer

logger = logging.getLogger("llmbench.reference_engine")

EXIT_CANNOT_START = 2
EXIT_ENGINE_DIED = 1
# Longer than a closed loop's pause between two requests: a client's idle connection should not be closed under it.
_KEEP_ALIVE_S = 75
_BACKLOG = 2048


def serve(config: EngineConfig, host: str, port: int, model_name: str, drain_s: int) -> int:
    """Serve until SIGTERM, Ctrl-C or the engine's end; returns the exit code.

    Port 0 takes a free one; the log says which. Raises ReferenceEngineError if it cannot start.
    """
    tokenizer = Tokenizer(config.model_path)
    with _listen(host, port) as listener, asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(_Server(config, tokenizer, model_name, drain_s).run(listener))


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own would send itself the signal again afterwards, and end the process before the engine is stopped.
        yield


class _Server:
    def __init__(self, config: EngineConfig, tokenizer: Tokenizer, model_name: str, drain_s: int) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._drain_s = drain_s
        self._exit_code = 0

    async def run(self, listener: socket.socket) -> int:
        engine = EngineClient(on_death=self._on_death)
        metrics = ServerMetrics(self._model_name, lambda: engine.stats)
        app = Service(engine, self._tokenizer, metrics, self._model_name).make_app()
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=self._drain_s,
                lifespan="off",
            )
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._uvicorn.handle_exit, number, None)
        loading = asyncio.create_task(self._load(engine, listener))
        try:
            await self._uvicorn.serve(sockets=[listener])
        finally:
            loading.cancel()
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
            logger.error("The engine process ended while it loaded %s.", self._config.model_path)
            self._end(EXIT_ENGINE_DIED)
        else:
            host, port = listener.getsockname()[:2]
            logger.info("serving %s on http://%s:%d", self._model_name, f"[{host}]" if ":" in host else host, port)

    def _on_death(self) -> None:
        logger.error("The engine process ended unexpectedly; its requests have failed and the server stops.")
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
