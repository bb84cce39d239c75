"""A receiver on a loopback port that behaves as badly as it is told to.

    with Receiver(drip_head) as receiver:
        transport.send(Request(receiver.url, ...))

A behaviour is a function of one accepted connection (`Peer`); it runs on a thread and may
block: it ends when the receiver is left. `receiver.requests` has what was read whole.
"""

import contextlib
import datetime
import gzip
import ipaddress
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LIFETIME = 20.0
"""Seconds after which every connection of a receiver ends, whatever its behaviour."""


@dataclass
class Received:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    """One accepted connection, seen from the receiver."""

    sock: socket.socket
    receiver: "Receiver"
    number: int
    _buffer: bytes = b""

    def read_head(self) -> tuple[str, dict[str, str]] | None:
        while b"\r\n\r\n" not in self._buffer:
            piece = self.sock.recv(65536)
            if not piece:
                return None
            self._buffer += piece
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = (field.split(": ", 1) for field in fields)
        return line, {name.lower(): value for name, value in pairs}

    def read_request(self) -> Received | None:
        head = self.read_head()
        if head is None:
            return None
        line, headers = head
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            piece = self.sock.recv(65536)
            if not piece:
                return None
            self._buffer += piece
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        received = Received(line, headers, body)
        self.receiver.requests.append(received)
        return received

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, pause: float = 0.1) -> None:
        for index in range(len(data)):
            self.write(data[index : index + 1])
            if self.receiver.stopped.wait(pause):
                return

    def wait(self) -> None:
        self.receiver.stopped.wait(LIFETIME)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Behaviour = Callable[[Peer], Any]


@dataclass
class Receiver:
    behaviour: Behaviour
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    _peers: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Receiver":
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        scheme = "https" if self.tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}/hook"
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Wake and join every thread before any close: a number of a closed socket that a
        thread still waits on would soon be another test's socket."""
        self.stopped.set()
        for sock in (self._listener, *self._peers):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)
        for sock in (self._listener, *self._peers):
            sock.close()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._peers.append(sock)
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            sock.settimeout(LIFETIME)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self._peers.append(sock)
            with sock:
                self.behaviour(Peer(sock, self, number))


# Behaviours that answer.


def reply(
    status: int = 200, body: bytes = b"ok", headers: str = "", before: bytes = b""
) -> Behaviour:
    """Answer each request of the connection; `headers` are whole lines, each with its CRLF."""
    head = f"HTTP/1.1 {status} Any\r\n{headers}content-length: {len(body)}\r\n\r\n"

    def behaviour(peer: Peer) -> None:
        while peer.read_request():
            peer.write(before + head.encode("latin-1") + body)

    return behaviour


def raw(answer: bytes) -> Behaviour:
    """Read one request, write `answer`, close."""

    def behaviour(peer: Peer) -> None:
        peer.read_request()
        peer.write(answer)

    return behaviour


def gzip_bomb(peer: Peer) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    peer.read_request()
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n"
    peer.write(head.encode() + bomb)


def endless_body(peer: Peer) -> None:
    peer.read_request()
    peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n")
    while not peer.receiver.stopped.is_set():
        peer.write(b"x" * 65536)


def one_request_per_connection(end: Callable[[Peer], None]) -> Behaviour:
    """Answer once as if the connection stayed, then `end` it as the second request arrives."""

    def behaviour(peer: Peer) -> None:
        peer.read_request()
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        peer.read_head()
        end(peer)

    return behaviour


# Behaviours that do not answer, or not in time.


def hang(peer: Peer) -> None:
    peer.wait()


def read_and_hang(peer: Peer) -> None:
    peer.read_request()
    peer.wait()


def accept_and_close(peer: Peer) -> None:
    pass


def reset(peer: Peer) -> None:
    peer.read_head()
    peer.reset()


def drip_status_line(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 " + b"O" * 100)


def drip_head(peer: Peer) -> None:
    peer.read_request()
    peer.write(b"HTTP/1.1 200 OK\r\n")
    peer.drip(b"x: y\r\n" * 100)


def drip_continue(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 20, pause=0.02)


def flood_continue(peer: Peer) -> None:
    peer.read_request()
    while not peer.receiver.stopped.is_set():
        peer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def flood_early_hints(peer: Peer) -> None:
    peer.read_request()
    while not peer.receiver.stopped.is_set():
        peer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100)


def drip_body(peer: Peer) -> None:
    peer.read_request()
    peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    peer.drip(b"0123456789" * 100)


def drip_chunks(peer: Peer) -> None:
    peer.read_request()
    peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    peer.drip(b"1\r\nx\r\n" * 100)


# Certificates.


@dataclass(frozen=True)
class Certificate:
    path: str
    """A PEM file to trust: the self-signed certificate."""
    context: ssl.SSLContext
    """For the receiver."""


@contextlib.contextmanager
def certificate(*names: str, expired: bool = False) -> Iterator[Certificate]:
    """A self-signed certificate for DNS names and IP addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hostile")])
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * day)
        .not_valid_after(now - day if expired else now + day)
        .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    with tempfile.TemporaryDirectory() as folder:
        path, key_path = Path(folder, "cert.pem"), Path(folder, "key.pem")
        path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, key_path)
        yield Certificate(str(path), context)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
