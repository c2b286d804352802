"""`python -m llmbench.engines.simulated_server`: the simulated engine by itself."""

from __future__ import annotations

import argparse
import contextlib
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from llmbench.engines.simulated_server.behaviour import OPTIONS, Behaviour
from llmbench.engines.simulated_server.server import SimulatedServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; prints where it listens as its first line."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        behaviour = Behaviour().changed(
            {name: value for name in OPTIONS if (value := getattr(given, name)) is not None}
        )
    except ValueError as error:
        parser.error(str(error))
    with contextlib.ExitStack() as stack:
        log: IO[bytes] | None = None
        try:
            if given.log is not None:
                # Unbuffered: a line is in the file when its answer has ended, whatever happens to this process.
                log = stack.enter_context(given.log.open("ab", buffering=0))
            server = SimulatedServer(given.host, given.port, given.model, behaviour, log)
        except OSError as error:
            where = given.log if error.filename is not None else f"{given.host}:{given.port}"
            parser.error(f"{where}: {error.strerror or error}")
        host = f"[{given.host}]" if ":" in given.host else given.host
        print(f"Listening on http://{host}:{server.port}", flush=True)  # noqa: T201
        # No exception out of a handler: it could come between a send and its stamp.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        # What exists now lives as long as the process; the collector need not walk it while chunks are due.
        gc.freeze()
        server.run()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmbench.engines.simulated_server",
        description="An OpenAI-compatible server without a model: answers on a schedule, and logs when it really sent.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for a free one; default 8000")
    parser.add_argument("--model", default="simulated", help="name under /v1/models; default simulated")
    parser.add_argument("--log", type=Path, help="file to which each ended answer adds a line of JSON; default none")
    for name, option in OPTIONS.items():
        flag, meaning, kind = f"--{name.replace('_', '-')}", option.metadata["help"], option.metadata["kind"]
        if kind is bool:
            parser.add_argument(flag, action="store_true", default=None, help=f"{meaning}; default no")
        else:
            shown = meaning if "default" in meaning else f"{meaning}; default {_shown(option.default)}"
            parser.add_argument(flag, type=kind, help=shown)
    return parser


def _shown(default: object) -> str:
    return "never" if default is None else str(default)


if __name__ == "__main__":
    sys.exit(main())
