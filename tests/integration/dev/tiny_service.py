"""A process that a stack under test can run: one readiness page, and misbehaviour on demand.

Environment: `TINY_HTTP_ADDRESS`; `TINY_MOOD` is empty, `crashes` or `full` (says why and exits 1), `never-ready`, or
`stubborn` (ignores SIGTERM). `/settings` shows the environment it was given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOOD = os.environ.get("TINY_MOOD", "")
LAST_WORDS = {
    "crashes": "tiny: cannot go on without a purpose",
    "full": "tiny: OSError: [Errno 28] No space left on device: 'mails'",
}


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path != "/readyz" or MOOD != "never-ready"
        body = json.dumps(dict(os.environ)).encode() if self.path == "/settings" else b"ok"
        self.send_response(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    if MOOD in LAST_WORDS:
        sys.exit(LAST_WORDS[MOOD])
    signal.signal(signal.SIGTERM, signal.SIG_IGN if MOOD == "stubborn" else lambda *_: sys.exit(0))
    host, _, port = os.environ["TINY_HTTP_ADDRESS"].rpartition(":")
    ThreadingHTTPServer((host, int(port)), Page).serve_forever()


if __name__ == "__main__":
    main()
