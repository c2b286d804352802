"""Starts a persistent deployment of DeepSpeed-MII and ends when a part of it does: a program for that environment's
interpreter.

Uses the standard library and mii alone, because llmbench is not installed there; this file is run by its path.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any


def main() -> None:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve = {
        "deployment_name": f"llmbench-{arguments.port}",
        # Its own defaults are fixed ports, at which two deployments would meet.
        "zmq_port_number": _free_port(),
        "torch_dist_port": _free_port(),
        **arguments.serve,
    }
    serve |= placement(serve, os.environ)
    # It starts the program `deepspeed`, which starts ninja: both are beside this interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # Where it writes what it was told; its own default is shared by all deployments of a name.
    with tempfile.TemporaryDirectory(prefix="llmbench-mii-") as folder:
        os.environ.setdefault("MII_CACHE_PATH", folder)
        import mii  # type: ignore[import-not-found]

        mii.serve(arguments.model, port_number=arguments.port, **serve)
        threading.Thread(target=_answer_probes, args=(arguments.ready_port,), daemon=True).start()
        # Its processes are children of this one. None of them ends by itself while the deployment lives.
        pid, status = os.wait()
    raise SystemExit(f"process {pid} of the deployment ended with code {os.waitstatus_to_exitcode(status)}")


def placement(serve: Mapping[str, Any], env: MutableMapping[str, str]) -> dict[str, Any]:
    """CUDA_VISIBLE_DEVICES in MII's own words, and taken out of `env`: MII drops it, and would use the first GPUs."""
    visible = env.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is None or "device_map" in serve:
        return {}
    names = [name.strip() for name in visible.split(",") if name.strip()]
    each, replicas = int(serve.get("tensor_parallel", 1)), int(serve.get("replica_num", 1))
    if len(names) < each * replicas or not all(name.isdecimal() for name in names):
        raise SystemExit(
            f"CUDA_VISIBLE_DEVICES is {visible!r}; {replicas} replicas of MII on {each} GPUs each take "
            f"{each * replicas} numbers of GPUs."
        )
    gpus = [int(name) for name in names]
    return {"device_map": [gpus[start : start + each] for start in range(0, each * replicas, each)]}


def _answer_probes(port: int) -> None:
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http.server.HTTPServer(("127.0.0.1", port), Ready).serve_forever()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True, help="of the load balancer; the replicas' follow it")
    parser.add_argument("--ready-port", type=int, required=True, help="answers every GET once requests may be sent")
    parser.add_argument("--serve", type=json.loads, required=True, help="arguments of mii.serve, as a JSON object")
    return parser


if __name__ == "__main__":
    main()
