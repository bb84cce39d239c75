"""One request out, one `Exchange` back: guarded, bounded in time and size, never raising.

The only module that imports requests. It uses the adapter without a `Session`, so there is
nothing that could follow a redirect, keep a cookie, or read .netrc or a proxy from the
environment. From the outside in:

* `Transport.send` checks, posts, and turns whatever happens into an `Exchange`;
* `_Adapter` keeps the connections of requests and urllib3, which are of our classes;
* a `_Guarded` connection resolves once, refuses the name if any answer is refused, dials
  an address that was checked (this gate alone is sufficient), and posts;
* a `_Timed` socket gives each single operation no more time than the exchange has left. A
  timeout of requests would start anew with each byte that drips in.

What belongs to one exchange, its `_Call`, is reached through a thread-local: urllib3 offers
no way to hand it down to a socket.
"""

import http.client
import io
import logging
import math
import re
import socket
import ssl
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address
from itertools import chain
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import certifi
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from .addresses import Network, check_address, check_url
from .exceptions import BlockedAddress, UnsafeURL

for _part in ("_new_conn", "is_connected"):  # without the first nothing would be guarded
    if not hasattr(HTTPConnection, _part):
        raise ImportError(f"This urllib3 has no HTTPConnection.{_part}: install urllib3 2.x.")

MAX_HEAD_BYTES, MAX_HEAD_LINES = 65536, 100
MAX_RESPONSE_HEADERS, MAX_RESPONSE_HEADER_LENGTH = 50, 1024
MAX_CUSTOM_HEADERS, MAX_CUSTOM_HEADER_LENGTH = 20, 1024
MAX_IDLE = 256
"""Connections kept for reuse: the others are closed, so that files are left to open."""
MAX_LOOKUPS = 64
"""Names being resolved at once in this process, each on one thread, however many sends wait
for it: a resolver that hangs can't pile up threads, nor one name take the place of others."""


@dataclass(frozen=True)
class Request:
    """A POST. `headers` are complete but for host, content-length, accept and
    accept-encoding; `timeout` is in seconds, for the whole exchange from DNS to body."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    timeout: float


@dataclass(frozen=True)
class Exchange:
    """What came of a request.

    `error` is "" for a 2xx whose headers were complete in time, else one of: blocked (URL or
    address refused), headers (of the request, unsendable), dns, connection (also: no HTTP),
    tls, proxy, timeout, redirect (any 3xx), status (any other), internal. `detail` says it in
    a sentence without query, token or resolved address. `headers` have lower-case names;
    `body` is the beginning of the response as text, undecoded; `retry_after` the raw value.
    """

    status_code: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    error: str = ""
    detail: str = ""
    duration_ms: int = 0
    retry_after: str = ""


class Transport:
    """Sends requests, from any number of threads at once; keeps idle connections for reuse.

    `allow_http` and `allowed_networks` are those of `addresses.check_url`. `proxy` is the
    http(s) URL of an egress proxy: it may be anywhere, and it resolves the names, so only
    URLs and literal addresses are checked here. `ca_bundle` is the path of the certificates
    to trust in place of certifi's. `max_idle` is how many connections are kept for reuse.
    """

    def __init__(
        self,
        *,
        allow_http: bool = False,
        allowed_networks: Sequence[Network] = (),
        proxy: str | None = None,
        max_response_bytes: int = 65536,
        ca_bundle: str | None = None,
        max_idle: int = MAX_IDLE,
    ) -> None:
        networks = tuple(allowed_networks)
        self._networks = networks
        self._max_response_bytes = max_response_bytes
        context = _tls_context(ca_bundle or certifi.where())
        self._adapter = _Adapter(context, proxy, max_idle)
        self._calls: set[_Call] = set()

        @lru_cache(maxsize=1024)
        def checked(url: str) -> str:
            return check_url(url, allow_http=allow_http, allowed_networks=networks)

        self._checked = checked

    def send(self, request: Request) -> Exchange:
        """The outcome of one POST, within `request.timeout` + 1 s; no Exception leaves."""
        started = monotonic()
        call = _Call(self._networks)
        self._calls.add(call)
        _here.call = call
        try:
            call.deadline = started + request.timeout
            exchange = self._exchange(request, call)
        except Exception as error:
            exchange = _failure(error, call)
        finally:
            _here.call = None
            self._calls.discard(call)
        return replace(exchange, duration_ms=round((monotonic() - started) * 1000))

    def close(self) -> None:
        """Close idle connections and cut off what is in flight (its error is `connection`)."""
        self._adapter.close()
        for call in list(self._calls):
            call.cut()

    def _exchange(self, request: Request, call: "_Call") -> Exchange:
        """One try, and one more if the server had given up a connection that was idle."""
        route = self._adapter.route(self._checked(request.url))
        message = _message(route, request)
        # To a proxy, one connection bears plain requests for any host: what one of them sends
        # after its answer must not be taken for the answer of the next.
        call.fresh = route.is_forwarded
        try:
            return self._adapter.post(route, message, self._max_response_bytes, call)
        except OSError:
            if not call.was_stale():
                raise
        call.fresh = True
        return self._adapter.post(route, message, self._max_response_bytes, call)


# The request: headers.

_CUSTOM_NAME = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110 5.6.2, token
_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?", re.ASCII)
_OURS = re.compile(
    "host|content-length|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|"
    "accept-encoding|proxy-connection",
    re.IGNORECASE,
)
_FORBIDDEN = re.compile(
    f"{_OURS.pattern}|content-type|content-encoding|cookie|forwarded|x-real-ip|via|user-agent|"
    "(proxy|sec|x-forwarded|webhook)-.*",
    re.IGNORECASE,
)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError, naming the header and the mend, unless `headers` may be custom ones.

    Never quotes a value: it may be a credential.
    """
    if not isinstance(headers, Mapping):
        raise ValueError("The headers are not a mapping of names to values.")
    if len(headers) > MAX_CUSTOM_HEADERS:
        raise ValueError(f"There are more than {MAX_CUSTOM_HEADERS} headers: remove some.")
    seen: set[str] = set()
    for name, value in headers.items():
        _check_custom_header(name, value)
        if name.lower() in seen:
            raise ValueError(f"The header {name} is there twice: keep one.")
        seen.add(name.lower())


def _check_custom_header(name: str, value: str) -> None:
    if not isinstance(name, str) or not _CUSTOM_NAME.fullmatch(name):
        raise ValueError(
            f"The header name {str(name)[:64]!r} must be 1 to 64 letters, digits or hyphens."
        )
    if _FORBIDDEN.fullmatch(name):
        raise ValueError(f"The header {name} is set by the sender or by proxies: remove it.")
    _check_value(name, value)
    if len(value) > MAX_CUSTOM_HEADER_LENGTH:
        raise ValueError(
            f"The header {name} is longer than {MAX_CUSTOM_HEADER_LENGTH} characters: shorten it."
        )


def _check_value(name: str, value: str) -> None:
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ValueError(
            f"The value of the header {name} must be printable ASCII without space around it."
        )


class _UnsendableHeader(ValueError):
    """A header that would break the framing of the request."""


def _message(route: "_Route", request: Request) -> bytes:
    """Head and body, which leave at once: one system call here, one packet at the other end."""
    if not isinstance(request.body, bytes):
        raise TypeError("The body must be bytes.")
    lines = {"accept": "accept: */*", "accept-encoding": "accept-encoding: identity"}
    for name, value in request.headers.items():
        try:
            lines[_known(name)] = f"{name}: {value}"
            _check_value(name, value)
        except (TypeError, ValueError) as error:
            raise _UnsendableHeader(str(error)) from None
    lines["content-length"] = f"content-length: {len(request.body)}"
    head = "\r\n".join((*route.lines, *lines.values(), "\r\n"))
    return head.encode("ascii") + request.body


@lru_cache(maxsize=1024)
def _known(name: str) -> str:
    """The header's name in lower case; ValueError if it can't be given."""
    if not _NAME.fullmatch(name) or _OURS.fullmatch(name):
        raise ValueError(f"The header {name[:64]!r} can't be given: remove it.")
    return name.lower()


# The outcome: of a response, of an exception.

_CREDENTIAL = re.compile(r"cookie|token|secret|passw|session|csrf|api-?key|auth", re.IGNORECASE)

_CONTROL = re.compile(r"[\0-\x1f\x7f]")

_DETAILS = {
    "dns": "The host's name did not resolve.",
    "connection": "The connection failed, or broke off before a complete HTTP answer.",
    "tls": "No secure connection: the certificate or the handshake failed.",
    "proxy": "The egress proxy did not connect us.",
}


def _read(response: "_Response", limit: int) -> str:
    """The first `limit` bytes as text; a body that breaks off decides nothing."""
    pieces, left = [], limit
    try:
        while left > 0 and (piece := response.read1(left)):
            pieces.append(piece)
            left -= len(piece)
    except (OSError, http.client.HTTPException):
        response.will_close = True  # nobody knows where the next response begins
    return b"".join(pieces).decode("utf-8", "replace").replace("\0", "")


def _outcome(response: "_Response", body: str) -> Exchange:
    status, headers = response.status, response.headers
    error = "" if 200 <= status < 300 else "redirect" if 300 <= status < 400 else "status"
    return Exchange(
        status_code=status,
        headers=_kept(headers),
        body=body,
        error=error,
        detail=error and f"The receiver answered with HTTP status {status}.",
        retry_after=_storable(headers.get("retry-after", "")),
    )


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The response's headers without what looks like a credential, capped."""
    names = [name for name in headers if not _CREDENTIAL.search(name)]
    return {_storable(name): _storable(headers[name]) for name in names[:MAX_RESPONSE_HEADERS]}


def _storable(text: str) -> str:
    text = _CONTROL.sub("", text[:MAX_RESPONSE_HEADER_LENGTH])
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _failure(error: Exception, call: "_Call") -> Exchange:
    """Where the call was tells what failed; wrapped exceptions would have to be guessed at."""
    if isinstance(error, UnsafeURL | BlockedAddress):
        return Exchange(error="blocked", detail=str(error))
    if isinstance(error, _UnsendableHeader):
        return Exchange(error="headers", detail=str(error))
    if call.stage == "dns":
        return Exchange(error="dns", detail=_DETAILS["dns"])
    if not isinstance(error, OSError | http.client.HTTPException | urllib3.exceptions.HTTPError):
        return Exchange(error="internal", detail=f"The sender failed ({type(error).__name__}).")
    if not monotonic() < call.deadline:  # also of NaN
        return Exchange(error="timeout", detail="No complete answer in time.")
    return Exchange(error=call.stage, detail=f"{_DETAILS[call.stage]} ({_root(error)})")


def _root(error: BaseException) -> str:
    """What the innermost exception is, without its text (but for OpenSSL's on certificates)."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return type(error).__name__


# One exchange, and the sockets that know its deadline.


class _Call:
    """The state of one `send`: until when, and how far it got."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks
        self.deadline = -math.inf
        self.stage = "connection"  # the `error`, if it fails now
        self.fresh = False  # use no idle connection
        self.reused = False  # the connection had served before
        self.answered = False  # a byte of the response has come
        self._sock: socket.socket | None = None
        self._is_cut = False

    def remaining(self) -> float:
        """Seconds left, above 0; else TimeoutError."""
        if self._is_cut:
            raise ConnectionAbortedError("The transport was closed.")
        left = self.deadline - monotonic()
        if not left > 0:
            raise TimeoutError("The exchange ran out of time.")
        return left

    def arm(self, sock: socket.socket, share: float = 1) -> None:
        """Before each operation: no longer than (a share of) what the exchange has left."""
        self._sock = sock
        sock.settimeout(self.remaining() * share)

    def was_stale(self) -> bool:
        return self.reused and not self.answered and not self._is_cut

    def cut(self) -> None:
        """From another thread: end the operation under way."""
        self._is_cut = True
        if self._sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class _Here(threading.local):
    call: _Call | None = None


_here = _Here()


def _current() -> _Call:
    if _here.call is None:
        raise RuntimeError("A connection of Transport was used outside of send().")
    return _here.call


class _TimedSocket(socket.socket):
    def recv(self, *args: Any, **kwargs: Any) -> bytes:  # by TLS in TLS, through a proxy
        _current().arm(self)
        return super().recv(*args, **kwargs)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        call = _current()
        call.arm(self)
        count = super().recv_into(*args, **kwargs)
        call.answered = call.answered or count > 0
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:  # by TLS's sendall, in a loop
        _current().arm(self)
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:  # without TLS its timeout is a total
        _current().arm(self)
        super().sendall(*args, **kwargs)


class _TimedTLSSocket(_TimedSocket, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:  # its timeout is a total, too
        call = _current()
        call.arm(self)
        before, call.stage = call.stage, "tls"
        super().do_handshake(block)
        call.stage = before


@lru_cache(maxsize=4)
def _tls_context(ca_bundle: str) -> ssl.SSLContext:
    """Verification on, TLS 1.2 or newer. The certificates are read once by each process: that
    takes as long as a hundred deliveries, and each drain has a transport of its own."""
    context = create_urllib3_context(ssl_minimum_version=ssl.TLSVersion.TLSv1_2)
    context.load_verify_locations(ca_bundle)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.sslsocket_class = _TimedTLSSocket
    return context


# The connection: name, address, request, head of the response.

_places = threading.BoundedSemaphore(MAX_LOOKUPS)
_lookups: dict[tuple[str, int], "Future[Any]"] = {}
_lookups_lock = threading.Lock()

SockAddr = tuple[Any, ...]


def _resolve(host: str, port: int, call: _Call) -> list[tuple[int, SockAddr]]:
    """(family, address) of `host` by one look-up, on a thread that is left behind if it hangs."""
    with suppress(ValueError):
        family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
        return [(family, (host, port))]
    found = _look_up(host, port, call).result(timeout=call.remaining())
    return list(dict.fromkeys((info[0], info[4]) for info in found))


def _look_up(host: str, port: int, call: _Call) -> "Future[Any]":
    """The look-up that is under way, or a new one."""
    if not _places.acquire(timeout=call.remaining()):
        raise TimeoutError("Too many look-ups hang.")
    with _lookups_lock:
        if lookup := _lookups.get((host, port)):
            _places.release()
            return lookup
        try:
            lookup = Future()
            threading.Thread(target=_ask, args=(host, port, lookup), daemon=True).start()
        except RuntimeError:
            _places.release()
            raise
        _lookups[host, port] = lookup
        return lookup


def _ask(host: str, port: int, lookup: "Future[Any]") -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        _settle(host, port)
        lookup.set_exception(error)
    else:
        _settle(host, port)
        lookup.set_result(found)


def _settle(host: str, port: int) -> None:
    """Before the answer is told: whoever comes after it asks anew."""
    with _lookups_lock:
        _lookups.pop((host, port), None)
    _places.release()


def _check(address: SockAddr, networks: Sequence[Network]) -> None:
    scope = address[3] if len(address) > 3 else 0
    # As text: `ip_address` takes numbers and bytes, too, which another family may have here.
    check_address(f"{address[0]}%{scope}" if scope else str(address[0]), networks)


def _dial(answers: Sequence[tuple[int, SockAddr]], options: Any, call: _Call) -> socket.socket:
    """A connection to the first address that takes it; each gets its share of the time."""
    failure: OSError = OSError("The name has no address.")
    for left, (family, address) in zip(range(len(answers), 0, -1), answers, strict=True):
        sock = _TimedSocket(family, socket.SOCK_STREAM)
        try:
            for option in options or ():
                sock.setsockopt(*option)
            call.arm(sock, 1 / left)
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


class _Lines(io.BufferedReader):
    """Reads the lines of a response: its head, then what stands between chunks. http.client
    would take a head that is cut off for a complete one, and read lines without end: of
    interim responses (1xx), of trailers."""

    budget = MAX_HEAD_BYTES

    def readline(self, size: int | None = -1) -> bytes:
        most = self.budget + 1  # one line alone may be endless
        line = super().readline(most if size is None or size < 0 else min(size, most))
        self.budget -= len(line)
        if not line:
            raise http.client.RemoteDisconnected("The response broke off.")
        if self.budget < 0:
            raise http.client.LineTooLong("head")
        return line


class _Response(http.client.HTTPResponse):
    """A response of http.client, whose `headers` are by lower-case name.

    http.client leaves them to the parser of e-mail, which takes longer than all else here.
    """

    headers: dict[str, str]  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = self._lines = _Lines(self.fp.detach())

    def begin(self) -> None:
        """Read the head. What follows it is framed as RFC 9112 6.3 says."""
        version, self.status, self.reason = self._read_status()
        if not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if version == "HTTP/1.0" else 11
        self.headers = self._read_headers()
        self._lines.budget = MAX_HEAD_BYTES  # a large head leaves no less for the chunks
        coding = self.headers.get("transfer-encoding", "").lower()
        self.length = self._find_length()
        self.chunked = self.length is None and coding.rpartition(",")[2].strip() == "chunked"
        self.chunk_left = None
        # RFC 9112 6.1 and 6.3: with a length beside it, or from a server of HTTP/1.0, the coding
        # may have been meant for somebody between us.
        has_one_end = self.chunked and self.version == 11 and "content-length" not in self.headers
        ends = self.length is None and not has_one_end
        self.will_close = ends or self.status == 101 or self._check_close()  # type: ignore[attr-defined]

    @property
    def is_complete(self) -> bool:
        """Whether it was read to its end, so that the connection may serve once more."""
        return not self.will_close and (self.isclosed() if self.chunked else self.length == 0)

    def _read_headers(self) -> dict[str, str]:
        """What is there more than once stands in one line (RFC 9110 5.3); what is no header is
        left out, for the status has come."""
        headers: dict[str, str] = {}
        name = ""
        for _ in range(MAX_HEAD_LINES):
            line = self.fp.readline().decode("latin-1").rstrip("\r\n")
            if not line:
                return headers
            if line[0] in " \t" and name:  # RFC 9112 5.2: obsolete folding
                headers[name] += " " + line.strip(" \t")
                continue
            before, colon, value = line.partition(":")
            if not colon:
                continue
            name, value = before.strip(" \t").lower(), value.strip(" \t")
            if name not in headers:
                headers[name] = value
            elif name != "retry-after":  # no list: the first is taken
                headers[name] += f", {value}"
        raise http.client.HTTPException("The head has too many lines.")

    def _find_length(self) -> int | None:
        """Of the body, in bytes; None if that is not told."""
        if self.status in (101, 204, 304):
            return 0
        lengths = {each.strip() for each in self.headers.get("content-length", "").split(",")}
        if "transfer-encoding" in self.headers or lengths == {""}:
            return None
        (length,) = lengths if len(lengths) == 1 else ("",)
        if not re.fullmatch("[0-9]{1,18}", length):
            raise http.client.HTTPException("Nobody knows where the body ends.")
        return int(length)

    def _read_status(self) -> tuple[str, int, str]:
        """RFC 9110 15.2: any 1xx but 101 is followed by more."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            while self.fp.readline() not in (b"\r\n", b"\n"):
                pass


class _Guarded(HTTPConnection):
    """Dials only what may be called. Host, SNI and certificate name stay the host's."""

    response_class = _Response
    _has_served = False

    def _new_conn(self) -> socket.socket:
        call = _current()
        call.stage = "proxy" if self.proxy else "dns"
        answers = _resolve(self._dns_host.strip("[]"), self.port, call)
        if not self.proxy:
            for _, address in answers:
                _check(address, call.networks)
            call.stage = "connection"
        sys.audit("http.client.connect", self, self.host, self.port)
        sock = _dial(answers, self.socket_options, call)
        try:
            if not self.proxy:
                _check(sock.getpeername(), call.networks)
        except BaseException:
            sock.close()
            raise
        return sock

    def connect(self) -> None:
        super().connect()
        _current().stage = "connection"

    def close(self) -> None:
        self._has_served = False
        super().close()

    def post(self, message: bytes) -> _Response:
        """The response to a whole request, with its body unread."""
        call = _current()
        call.reused, call.answered = self._has_served, False
        if self.sock is None:
            self.connect()
        self._has_served = True
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before
            self.sock.sendall(message)
        response = _Response(self.sock, method="POST")
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response


class _GuardedTLS(_Guarded, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Guarded


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS


_POOLS = {"http": _Pool, "https": _TLSPool}


@dataclass(frozen=True)
class _Route:
    """What all requests to a URL have in common."""

    origin: tuple[str, int | None, str]
    """Host, port and scheme."""
    lines: Sequence[str]
    """The first of the head."""
    is_forwarded: bool
    """Whether a proxy reads the request; it only carries one over TLS."""


class _Idle:
    """Connections that wait for their next request: `most` of all, so that they can't use up what
    files the process may open. Beyond that the host whose last answer is oldest loses one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._waiting: OrderedDict[Hashable, deque[_Guarded]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, origin: Hashable) -> _Guarded | None:
        """The one that was used last, for it is the least likely to have been given up."""
        with self._lock:
            return self._pop(origin, deque.pop) if origin in self._waiting else None

    def keep(self, origin: Hashable, connection: _Guarded) -> None:
        surplus = None
        with self._lock:
            self._waiting.setdefault(origin, deque()).append(connection)
            self._waiting.move_to_end(origin)
            self._count += 1
            if self._count > self._most:
                surplus = self._pop(next(iter(self._waiting)), deque.popleft)
        if surplus:
            surplus.close()

    def close(self) -> None:
        """Those that are there, and each that comes from now on."""
        with self._lock:
            waiting, self._waiting = self._waiting, OrderedDict()
            self._most = self._count = 0
        for connection in chain(*waiting.values()):
            connection.close()

    def _pop(self, origin: Hashable, which: Callable[[deque[_Guarded]], _Guarded]) -> _Guarded:
        connections = self._waiting[origin]
        connection = which(connections)
        self._count -= 1
        if not connections:
            del self._waiting[origin]
        return connection


class _Adapter(HTTPAdapter):
    """requests' adapter: it makes the connections, of our classes, and knows how to ask a proxy.

    A request goes to http.client by itself. What `HTTPAdapter.send` and urllib3's `urlopen` do
    for each one (retries, redirects, cookies, decoding) no webhook has a use for, and it took
    more than half of a delivery's time.
    """

    def __init__(self, context: ssl.SSLContext, proxy: str | None, max_idle: int) -> None:
        self._tls: dict[str, Any] = {"ssl_context": context, "cert_reqs": "CERT_REQUIRED"}
        super().__init__()
        self._proxy = proxy
        self._manager = self.proxy_manager_for(proxy) if proxy else self.poolmanager
        self._idle = _Idle(max_idle)
        self.route = lru_cache(maxsize=1024)(self._find_route)

    def close(self) -> None:
        self._idle.close()
        super().close()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= self._tls
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        kwargs |= {**self._tls, "proxy_ssl_context": self._tls["ssl_context"]}
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def _find_route(self, url: str) -> _Route:
        """Of a URL that `check_url` gave."""
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        is_forwarded = bool(self._proxy) and scheme == "http"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = f"[{host}]" if ":" in host else host
        if port not in (None, {"http": 80, "https": 443}[scheme]):
            authority += f":{port}"
        if is_forwarded:
            target = f"{scheme}://{authority}{target}"
        lines = [f"POST {target} HTTP/1.1", f"host: {authority}"]
        if is_forwarded:
            lines += [f"{name}: {value}" for name, value in self._manager.proxy_headers.items()]
        return _Route((host, port, scheme), lines, is_forwarded)

    def post(self, route: _Route, message: bytes, limit: int, call: _Call) -> Exchange:
        """The outcome, with no more than `limit` bytes of the response's body."""
        call.remaining()  # or what ran out of time would be taken for a name that does not resolve
        connection = self._connection(route, call)
        is_whole = False
        try:
            response = connection.post(message)
            with response:
                call.remaining()  # judged by the clock, whatever came
                body = _read(response, limit)
                is_whole = response.is_complete
            return _outcome(response, body)
        finally:
            if is_whole and not route.is_forwarded:
                self._idle.keep(route.origin, connection)
            else:
                connection.close()

    def _connection(self, route: _Route, call: _Call) -> _Guarded:
        """An idle one that the server has not given up, or a new one."""
        while not call.fresh and (connection := self._idle.take(route.origin)):
            if connection.is_connected:
                return connection
            connection.close()
        pool = self._manager.connection_from_host(*route.origin)
        made: _Guarded = pool._new_conn()
        try:
            if self._proxy and not route.is_forwarded:
                pool._prepare_proxy(made)
        except BaseException:
            made.close()
            raise
        return made


def _not_ours(record: logging.LogRecord) -> bool:
    return _here.call is None


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.response"):
    # urllib3 logs paths with their query, where tokens live: not while it works for us.
    logging.getLogger(_name).addFilter(_not_ours)
