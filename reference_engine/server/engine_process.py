"""The engine in a process of its own: `python -m llmbench.reference_engine.server.engine_process FD LOG_FORMAT`.

Why a process: in a thread the engine and the event loop take turns at one interpreter lock, and every kernel call of a
step hands it over. Measured on two busy cores, llama-20m in bfloat16, 16 streams, median of seven alternating rounds:
849 tokens/s from a process, 616 from a thread. The process ends when the server's end of the socket closes, however
the server ended, so that it is never an orphan.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any, NoReturn

from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ReferenceEngineError, RequestError
from llmbench.reference_engine.server.channel import (
    BlockingChannel,
    CannotStart,
    Finish,
    Ready,
    Refused,
    Stepped,
    Submit,
)
from llmbench.reference_engine.server.logs import configure_logging, log, log_loaded


def main() -> int:
    # Ctrl-C and a service manager reach the whole process group; the server decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging("json" if sys.argv[2] == "json" else "text")
    channel = BlockingChannel(socket.socket(fileno=int(sys.argv[1])))
    try:
        (config,) = channel.receive(wait=True)
        try:
            engine = Engine(config)
        except ReferenceEngineError as error:
            channel.send(CannotStart(str(error)))
            return 2
        log_loaded(config, engine.limits.max_model_len, engine.stored_quantization)
        channel.send(Ready(engine.limits, engine.stats()))
        try:
            serve(engine, channel)
        finally:
            engine.close()
    except EOFError:
        return 0
    except Exception as error:
        log.exception("The engine broke.", message=str(error))
        return 1


def serve(engine: Engine, channel: BlockingChannel) -> NoReturn:
    """Take messages and step, until the channel raises EOFError."""
    told = engine.stats()
    while True:
        for message in channel.receive(wait=not engine.has_work()):
            _apply(engine, channel, message)
        outputs = engine.step()
        stats = engine.stats()
        # Without outputs too: a request that was given up must show in the gauges.
        if outputs or stats != told:
            channel.send(Stepped(outputs, stats))
            told = stats


def _apply(engine: Engine, channel: BlockingChannel, message: Any) -> None:
    match message:
        case Submit(request_id, prompt_token_ids, params, priority, user):
            try:
                engine.add_request(request_id, prompt_token_ids, params, priority, user)
            except RequestError as error:
                channel.send(Refused(request_id, str(error)))
        case Finish(request_id, aborted):
            engine.finish(request_id, "abort" if aborted else "stop")
        case _:
            raise AssertionError(f"no such message: {message!r}")


if __name__ == "__main__":
    sys.exit(main())
