"""A second simulated engine, written apart from the first: blocking sockets, a thread per connection, sleeps.

    python tests/support/independent_server.py PORT LOG TTFT_MS ITL_MS

It shares no code with `llmbench.engines.simulated_server`, so that an error in either shows as a disagreement. Each
answer adds a JSON line to LOG: `request_id`, per chunk `began_ns` and `sent_ns` around `sendall`, and `end_began_ns`
and `end_ns` around that of the end.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    port, log, ttft_ms, itl_ms = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    lock = threading.Lock()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener, log.open("a", buffering=1) as lines:
        print(f"listening on {listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer = (connection, lines, lock, ttft_ms / 1e3, itl_ms / 1e3)
            threading.Thread(target=serve, args=answer, daemon=True).start()


def serve(connection: socket.socket, lines, lock: threading.Lock, ttft_s: float, itl_s: float) -> None:  # type: ignore[no-untyped-def]
    reader = connection.makefile("rb")
    with connection, reader:
        while (request := read_request(reader)) is not None:
            arrived_s = time.perf_counter()
            headers, body = request
            if not body:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            num_tokens = json.loads(body)["max_tokens"]
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            began_ns, sent_ns = [], []
            for place in range(num_tokens):
                last = place == num_tokens - 1
                choice = {"index": 0, "text": " sea", "finish_reason": "length" if last else None}
                part = chunk({"id": "cmpl-1", "object": "text_completion", "choices": [choice]})
                # Absolute, so that a late sleep does not push the later ones.
                time.sleep(max(0.0, arrived_s + ttft_s + place * itl_s - time.perf_counter()))
                began_ns.append(time.perf_counter_ns())
                connection.sendall(part)
                sent_ns.append(time.perf_counter_ns())
            usage = {"prompt_tokens": 3, "completion_tokens": num_tokens, "total_tokens": num_tokens + 3}
            end = chunk({"choices": [], "usage": usage}) + frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
            end_began_ns = time.perf_counter_ns()
            connection.sendall(end)
            end_ns = time.perf_counter_ns()
            line = {
                "request_id": headers.get("x-request-id"),
                "outcome": "done",
                "began_ns": began_ns,
                "sent_ns": sent_ns,
                "end_began_ns": end_began_ns,
                "end_ns": end_ns,
            }
            with lock:
                lines.write(json.dumps(line) + "\n")


def read_request(reader) -> tuple[dict[str, str], bytes] | None:  # type: ignore[no-untyped-def]
    if not reader.readline():
        return None
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return headers, reader.read(int(headers.get("content-length", 0)))


def chunk(event: dict[str, object]) -> bytes:
    return frame(b"data: " + json.dumps(event).encode() + b"\n\n")


def frame(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


if __name__ == "__main__":
    main()
