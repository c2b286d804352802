"""What the small HTTP servers of tests share."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler


class Replies(BaseHTTPRequestHandler):
    """Answers in one piece, and says nothing on stderr."""

    def reply(self, status: int, body: bytes, kind: str = "text/plain", **headers: str) -> None:
        """`headers` have underscores for hyphens."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
