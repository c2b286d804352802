"""A page in headless Chromium, with a script that sends what it sees."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Thread
from typing import Any

# Empty where there is none.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


# A browser begins its first navigation before its own parts are up: seconds on a busy machine.
_BEFORE = b'<!doctype html><script>setTimeout(() => location.replace("/page"), 500)</script>'


def told_by(
    html: str, script: str, width: int, height: int, kind: str = "text/javascript", *, warm: bool = False
) -> Any:
    """The JSON that `script`, at the end of the page `html`, sends to "/" by POST, in a fresh browser without a cache.

    `warm` shows the browser an empty page first, for times that are to be the page's and not the browser's start. The
    page's policy is widened for the script and its message, and for nothing else. Raises queue.Empty after 90 s.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"connect-src 'self'; script-src 'sha256-{digest}' "
    tag = f'<script type="{kind}">{script}</script></body>'
    page = html.replace("script-src ", policy, 1).replace("</body>", tag).encode()
    told: SimpleQueue[Any] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(_BEFORE if warm and self.path == "/" else page)

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
    ):
        Thread(target=server.serve_forever, daemon=True).start()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        chromium = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return told.get(timeout=90)
        finally:
            os.killpg(chromium.pid, signal.SIGKILL)
            chromium.wait()
            server.shutdown()
