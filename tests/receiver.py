"""A real receiver on a free port that keeps a ledger of all it got."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django_webhooks import signing

Answer = int | tuple[int, dict[str, str], bytes]


@dataclass
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    """When it came, in seconds of the monotonic clock."""

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verify(self, secrets: Any, **options: Any) -> signing.Message:
        return signing.verify(secrets, self.headers, self.body, **options)


@dataclass
class Receiver:
    """`answer` decides the response: a status, or (status, headers, body)."""

    answer: Callable[[Received], Answer] = lambda request: 204
    requests: list[Received] = field(default_factory=list)

    def __enter__(self) -> "Receiver":
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                if len(body) < length:
                    return  # the sender died while it sent
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Received(self.path, headers, body)
                receiver.requests.append(request)
                answer = receiver.answer(request)
                status, extra, text = answer if isinstance(answer, tuple) else (answer, {}, b"")
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("content-length", str(len(text)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(text)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *about: Any) -> None:
                if not isinstance(sys.exception(), ConnectionError):  # a worker was killed
                    super().handle_error(*about)

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"
