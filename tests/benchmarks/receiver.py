"""A receiver that is not the wall: a process of its own that answers with hardly any work.

It reads no more of a request than where it ends. With `delay` it answers that many seconds later;
with `certificate` it speaks TLS; with `keep` it remembers when each `webhook-id` came.
"""

import asyncio
import multiprocessing
import re
import signal
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)


@dataclass
class FastReceiver:
    """`with FastReceiver() as receiver:` listens at `receiver.url`."""

    delay: float = 0.0
    certificate: tuple[str, str] | None = None
    """Paths of the certificate and of its key, if it shall speak TLS."""
    keep: bool = False
    url: str = field(default="", init=False)

    def __enter__(self) -> "FastReceiver":
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        arguments = (theirs, self.delay, self.certificate, self.keep)
        self._process = spawn.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # so that its end is heard of
        port = self._pipe.recv()
        self.url = f"{'https' if self.certificate else 'http'}://127.0.0.1:{port}/hook"
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._pipe.send("stop")
        self._process.join(5)
        self._process.kill()

    def ask(self) -> "Seen":
        """What has come since the last question."""
        self._pipe.send("tell")
        seen: Seen = self._pipe.recv()
        return seen


@dataclass
class Seen:
    count: int = 0
    cpu: float = 0.0
    """Seconds of processor that answering took."""
    at: dict[str, list[float]] = field(default_factory=dict)
    """When each `webhook-id` came, in seconds of the monotonic clock."""


def _serve(pipe: Connection, delay: float, certificate: tuple[str, str] | None, keep: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run(pipe, delay, certificate, keep))


async def _run(
    pipe: Connection, delay: float, certificate: tuple[str, str] | None, keep: bool
) -> None:
    loop = asyncio.get_running_loop()
    seen, stopped = Seen(), asyncio.Event()
    began = time.process_time()
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.buffer = b""
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def data_received(self, data: bytes) -> None:
            buffer = self.buffer + data
            while (head := buffer.find(b"\r\n\r\n")) >= 0:
                length = _LENGTH.search(buffer, 0, head)
                end = head + 4 + (int(length[1]) if length else 0)
                if len(buffer) < end:
                    break
                self.answer(buffer[:head] if keep else b"")
                buffer = buffer[end:]
            self.buffer = buffer

        def answer(self, head: bytes) -> None:
            seen.count += 1
            if keep and (found := _ID.search(head)):
                seen.at.setdefault(found[1].decode(), []).append(time.monotonic())
            if delay:
                loop.call_later(delay, self.transport.write, ANSWER)
            else:
                self.transport.write(ANSWER)

    def on_word() -> None:
        nonlocal seen, began
        try:
            word = pipe.recv()
        except EOFError:
            word = "stop"
        if word == "stop":
            loop.remove_reader(pipe.fileno())
            stopped.set()
            return
        seen.cpu = time.process_time() - began
        pipe.send(seen)
        seen, began = Seen(), time.process_time()

    server = await loop.create_server(Answering, "127.0.0.1", 0, ssl=context, backlog=1024)
    loop.add_reader(pipe.fileno(), on_word)
    pipe.send(server.sockets[0].getsockname()[1])
    await stopped.wait()
