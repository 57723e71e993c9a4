"""An HTTP server in the test process, for `call` steps: it notes what it was asked and may hold its answers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.e2e.processes import wait_for

HELD_SECONDS = 30.0


class Site:
    """A server on 127.0.0.1 and a free port.

    Paths: /ok answers 200, /broken 500, /held/<name> 200 once `release` was called, and /first-held the same, but only
    its first request waits.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        """Path and body of every request, in order."""
        self.authorizations: list[str | None] = []
        """Their headers of that name."""
        self._released = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
                site.asked.append((self.path, body))
                site.authorizations.append(self.headers.get("authorization"))
                if self.path.startswith("/held") or (self.path == "/first-held" and len(site.of(self.path)) == 1):
                    site._released.wait(HELD_SECONDS)
                answer = json.dumps({"path": self.path, "body": body}).encode()
                self.send_response(500 if self.path == "/broken" else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: pytest shows what fails."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                """The engine was killed while it was answered; tests are about that."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="site")
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def of(self, path: str) -> list[str]:
        """Bodies of requests for this path."""
        return [body for asked, body in self.asked if asked == path]

    def wait_for(self, path: str, times: int = 1) -> None:
        """Wait until it was asked for this path so many times."""
        wait_for(lambda: len(self.of(path)) >= times, f"request {times} for {path}")

    def release(self) -> None:
        """Answer everybody who is held, now and later."""
        self._released.set()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
