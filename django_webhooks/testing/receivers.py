"""A receiver on a free loopback port that behaves as badly as it is told to.

with Receiver("drip_head") as receiver:
    subscription = Subscription.objects.create(url=receiver.url)
    …

A behaviour is a name in `BEHAVIOURS` or your own function of one accepted connection (`Peer`).
It runs on a thread and may block: it ends when the receiver is left. Only the standard library
is used, and nothing but the loopback interface.
"""

import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

LIFETIME = 20.0
"""Seconds after which every wait for the other side ends, whatever the behaviour."""

MAX_CONNECTIONS = 64
"""Connections served at once, each on a thread; more wait to be accepted."""

INTERNAL = "http://169.254.169.254/latest/meta-data/"


@dataclass(frozen=True)
class Received:
    """A request that was read whole; names of headers are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """A server for one `with` block.

    `url` is where to send to, `requests` what was read whole, `connections` how many were
    accepted. With `tls`, a server's SSLContext, the behaviour begins after the handshake;
    one that is named `tls_…` stands in for the handshake.
    """

    url: str
    port: int

    def __init__(
        self, behaviour: "str | Behaviour" = "ok", tls: ssl.SSLContext | None = None
    ) -> None:
        self.behaviour = BEHAVIOURS[behaviour] if isinstance(behaviour, str) else behaviour
        self.tls = tls
        self.requests: list[Received] = []
        self.connections = 0
        self.stopped = threading.Event()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        listener.settimeout(1)  # where shutdown() does not wake accept()
        self._sockets.append(listener)
        self.port = listener.getsockname()[1]
        secure = self.tls or self.behaviour in _IN_PLACE_OF_TLS
        self.url = f"{'https' if secure else 'http'}://127.0.0.1:{self.port}/hook"
        self._start(self._accept, listener)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Wake and join every thread before any close: the number of a closed socket that a
        thread still waits on would soon be another test's socket."""
        self.stopped.set()
        listener, acceptor = self._sockets[0], self._threads[0]
        _shut_down(listener)
        acceptor.join()  # from here on no connection is added
        for sock in self._sockets:
            _shut_down(sock)
        for thread in self._threads:
            thread.join(timeout=5)
        for sock in self._sockets:
            sock.close()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self.stopped.is_set():
            if not self._places.acquire(timeout=1):
                continue
            try:
                sock, _ = listener.accept()
            except OSError:
                self._places.release()
                continue
            self.connections += 1
            self._sockets.append(sock)
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        with suppress(OSError, ValueError):
            sock.settimeout(LIFETIME)
            if self.tls and self.behaviour not in _IN_PLACE_OF_TLS:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self._sockets.append(sock)
            with sock:
                self.behaviour(Peer(sock, self, number))
        self._places.release()


def _shut_down(sock: socket.socket) -> None:
    """Past SSLSocket's own, which another thread's read would not notice."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Peer:
    """One accepted connection, seen from the receiver; `number` counts them from 1."""

    def __init__(self, sock: socket.socket, receiver: Receiver, number: int) -> None:
        self.sock = sock
        self.receiver = receiver
        self.number = number
        self._buffer = b""

    def read_head(self) -> tuple[str, dict[str, str]] | None:
        """The request's line and headers; None if the connection ends before."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._read_more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = (field.split(": ", 1) for field in fields)
        return line, {name.lower(): value for name, value in pairs}

    def read_request(self) -> Received | None:
        """The whole request, which is then in `receiver.requests`; None as above."""
        head = self.read_head()
        if head is None:
            return None
        line, headers = head
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            if not self._read_more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        received = Received(line, headers, body)
        self.receiver.requests.append(received)
        return received

    def _read_more(self) -> bool:
        piece = self.sock.recv(65536)
        self._buffer += piece
        return bool(piece)

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, pause: float = 0.1) -> None:
        """One byte at a time, `pause` seconds between them."""
        for index in range(len(data)):
            self.write(data[index : index + 1])
            if self.receiver.stopped.wait(pause):
                return

    def flood(self, data: bytes) -> None:
        """`data` again and again, until the other side closes."""
        while not self.receiver.stopped.is_set():
            self.write(data)

    def wait(self) -> None:
        self.receiver.stopped.wait(LIFETIME)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Behaviour = Callable[[Peer], Any]


# Answers, from which more behaviours can be made.


def reply(
    status: int = 200, body: bytes = b"ok", headers: str = "", before: bytes = b""
) -> Behaviour:
    """Answer each request of the connection; `headers` are whole lines, each with its CRLF."""
    head = f"HTTP/1.1 {status} Any\r\n{headers}content-length: {len(body)}\r\n\r\n"

    def behaviour(peer: Peer) -> None:
        while peer.read_request():
            peer.write(before + head.encode("latin-1") + body)

    return behaviour


def redirect(location: str = INTERNAL, status: int = 307) -> Behaviour:
    """Send each request on to `location`; 307 and 308 ask for the same body once more."""
    return reply(status, b"", f"location: {location}\r\n")


def raw(answer: bytes) -> Behaviour:
    """Read one request, write `answer`, close."""
    return then_flood(answer, b"")


def then_flood(start: bytes, flood: bytes) -> Behaviour:
    """Read one request, write `start`, then `flood` for as long as it is read."""

    def behaviour(peer: Peer) -> None:
        peer.read_request()
        peer.write(start)
        if flood:
            peer.flood(flood)

    return behaviour


def then_drip(start: bytes, drip: bytes, pause: float = 0.1) -> Behaviour:
    """Read one request, write `start`, then `drip` byte by byte."""

    def behaviour(peer: Peer) -> None:
        peer.read_request()
        peer.write(start)
        peer.drip(drip, pause)

    return behaviour


# Behaviours that do not answer.


def never_reads(peer: Peer) -> None:
    peer.wait()


def silent(peer: Peer) -> None:
    peer.read_request()
    peer.wait()


def accept_and_close(peer: Peer) -> None:
    """The connection ends with this function."""


def reset(peer: Peer) -> None:
    peer.read_head()
    peer.reset()


def tls_silent(peer: Peer) -> None:
    peer.wait()


def tls_drip(peer: Peer) -> None:
    peer.drip(b"\x16\x03\x03\x40\x00\x02" + bytes(500))  # a ServerHello that is never whole


def tls_garbage(peer: Peer) -> None:
    peer.write(b"HTTP/1.1 400 Speak plainly\r\n\r\n")


_IN_PLACE_OF_TLS = (tls_silent, tls_drip, tls_garbage)


# Behaviours that answer too much.


def gzip_bomb(peer: Peer) -> None:
    bomb = _bomb()
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n"
    raw(head.encode() + bomb)(peer)


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """50 MB of nothing in 50 kB, never whole in memory."""
    gzip = zlib.compressobj(9, wbits=31)
    return b"".join(gzip.compress(bytes(1_000_000)) for _ in range(50)) + gzip.flush()


_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"transfer-encoding: chunked\r\n\r\n"
_MANY = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 8000) for number in range(200))
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HINT = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
_LONG = b"y" * 65536

BEHAVIOURS: dict[str, Behaviour] = {
    "ok": reply(),
    # No answer.
    "never_reads": never_reads,
    "silent": silent,
    "accept_and_close": accept_and_close,
    "reset": reset,
    "tls_silent": tls_silent,
    "tls_drip": tls_drip,
    "tls_garbage": tls_garbage,
    # An answer byte by byte.
    "drip_status_line": then_drip(b"HTTP/1.1 200 ", b"O" * 200),
    "drip_head": then_drip(_OK, b"x: y\r\n" * 40),
    "drip_continue": then_drip(b"", _CONTINUE * 40, pause=0.02),
    "drip_body": then_drip(_OK + b"content-length: 1000\r\n\r\n", b"0123456789" * 100),
    "drip_chunks": then_drip(_CHUNKED, b"1\r\nx\r\n" * 40),
    # Too much of it.
    "endless_status_line": then_flood(b"HTTP/1.1 200 ", _LONG),
    "endless_header": then_flood(_OK + b"x: ", _LONG),
    "huge_headers": raw(_OK + _MANY + b"\r\n"),
    "flood_continue": then_flood(b"", _CONTINUE * 100),
    "flood_early_hints": then_flood(b"", _HINT * 100),
    "endless_hint": then_flood(b"HTTP/1.1 103 Early Hints\r\nlink: ", _LONG),
    "endless_body": then_flood(_OK + b"content-length: 10000000000\r\n\r\n", _LONG),
    "gzip_bomb": gzip_bomb,
    "endless_chunk_size": then_flood(_CHUNKED + b"1;", _LONG),
    "endless_trailer": then_flood(_CHUNKED + b"2\r\nok\r\n0\r\n", b"x: y\r\n" * 1000),
    # Something else than an answer.
    "close_in_head": raw(_OK + b"content-type: text/pl"),
    "close_in_body": raw(_OK + b"content-length: 1000\r\n\r\nok"),
    "broken_chunks": raw(_CHUNKED + b"2\r\nok\r\n-5\r\n"),
    "garbage": raw(b"\x00\xff" * 500),
    "http_0_9": raw(b"<html>an answer without a head</html>"),
    "redirect": redirect(),
}
"""What a receiver can be told to be, by name; docs/how-to/test-your-webhooks.md says it all."""
