"""`LLM.generate` behind a port, for the interpreter of vLLM's environment: llmbench is not installed there, and this
file is run by its path.

POST /generate takes {"prompt", "sampling"}. Prompts that arrive within --gather-ms of the first one, or while a batch
is under way, are generated together by one call, and all of them are answered when it returns.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    prompt: str
    sampling: dict[str, Any]
    answered: threading.Event = field(default_factory=threading.Event)
    status: int = 200
    answer: dict[str, Any] = field(default_factory=dict)

    def end(self, status: int, answer: dict[str, Any]) -> None:
        self.status, self.answer = status, answer
        self.answered.set()


def main() -> None:
    options = _options()
    import vllm

    engine = vllm.LLM(**json.loads(options.engine))
    waiting: queue.SimpleQueue[Asked] = queue.SimpleQueue()
    server = _Server(("127.0.0.1", options.port), _handler(waiting, vllm.__version__))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        batch = [waiting.get()]
        time.sleep(options.gather_ms / 1000)
        while not waiting.empty():
            batch.append(waiting.get())
        _generate(engine, vllm.SamplingParams, batch)


def _generate(engine: Any, sampling_params: Any, batch: list[Asked]) -> None:
    """Answer the whole batch. What one of them asks wrongly is told to that one alone."""
    ready, params = [], []
    for asked in batch:
        try:
            params.append(sampling_params(**asked.sampling))
            ready.append(asked)
        except (TypeError, ValueError) as error:
            asked.end(400, {"error": str(error)})
    if not ready:
        return
    try:
        outputs = engine.generate([asked.prompt for asked in ready], params, use_tqdm=False)
    except Exception as error:
        # Whatever the engine raises, the callers are to hear of it and not to wait for ever.
        for asked in ready:
            asked.end(500, {"error": f"{type(error).__name__}: {error}"})
        return
    for asked, output in zip(ready, outputs, strict=True):
        first = output.outputs[0]
        asked.end(
            200,
            {
                "text": first.text,
                "finish_reason": first.finish_reason,
                "prompt_tokens": len(output.prompt_token_ids),
                "output_tokens": len(first.token_ids),
                "token_ids": list(first.token_ids),
            },
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def _handler(waiting: queue.SimpleQueue[Asked], version: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = {"/health": {}, "/version": {"version": version}}
            self._reply(200 if self.path in known else 404, known.get(self.path, {"error": "no such route"}))

        def do_POST(self) -> None:
            try:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = Asked(body["prompt"], body["sampling"])
            except (KeyError, TypeError, ValueError) as error:
                self._reply(400, {"error": f"The request is not {{prompt, sampling}}: {error!r}"})
                return
            waiting.put(asked)
            asked.answered.wait()
            self._reply(asked.status, asked.answer)

        def log_message(self, format: str, *args: object) -> None:
            return

        def _reply(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", required=True, help="keyword arguments of vllm.LLM, as JSON")
    parser.add_argument("--gather-ms", type=float, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
