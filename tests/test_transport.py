"""What the sender promises about any receiver: real sockets on loopback, deadlines of ~1 s."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from django_webhooks import transport as module
from django_webhooks.testing import receivers
from django_webhooks.testing.receivers import Receiver, raw, redirect, reply
from django_webhooks.transport import Exchange, Request, Transport, check_headers
from tests.certificates import certificate

LOOPBACK = (ip_network("127.0.0.0/8"),)
DEADLINE = 0.8


@pytest.fixture
def transport():
    transport = Transport(allow_http=True, allowed_networks=LOOPBACK)
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def cert():
    with certificate("127.0.0.1", "receiver.example") as cert:
        yield cert


@contextmanager
def trusting(cert, **kwargs):
    kwargs.setdefault("allowed_networks", LOOPBACK)
    transport = Transport(ca_bundle=cert.path, **kwargs)
    yield transport
    transport.close()


def request(url, *, headers=None, body=b'{"a": 1}', timeout=DEADLINE):
    given = {"content-type": "application/json", "user-agent": "django-webhooks/test"}
    return Request(url, {**given, **(headers or {})}, body, timeout)


def send(transport, url, **kwargs) -> Exchange:
    """Send, and hold the promise that every test relies on: never later than D + 1 s."""
    wanted = request(url, **kwargs)
    started = time.monotonic()
    exchange = transport.send(wanted)
    assert time.monotonic() - started < wanted.timeout + 1
    return exchange


@pytest.fixture
def names(monkeypatch):
    """A resolver that knows what is put in here; `.asked` lists the look-ups."""

    class Names(dict):
        asked: list[str]

    known = Names()
    known.asked = []

    def getaddrinfo(host, port, *args, **kwargs):
        known.asked.append(host)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in known[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.fixture
def connects(monkeypatch):
    """Every address that anything tries to connect to; nothing gets through."""
    tried = []

    def connect(self, address):
        tried.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


# What arrives, and what comes back.


def test_the_exact_bytes_and_headers_arrive(transport):
    with Receiver(reply(body=b"thanks")) as receiver:
        exchange = send(transport, receiver.url + "?a=b", headers={"webhook-id": "evt_1"})
    (received,) = receiver.requests
    assert received.line == "POST /hook?a=b HTTP/1.1"
    assert received.body == b'{"a": 1}'
    assert received.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "8",
        "user-agent": "django-webhooks/test",
        "webhook-id": "evt_1",
    }
    assert (exchange.status_code, exchange.body, exchange.error) == (200, "thanks", "")
    assert exchange.detail == ""
    assert 0 <= exchange.duration_ms < DEADLINE * 1000


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, ""),
        (204, ""),
        (299, ""),
        (300, "redirect"),
        (304, "redirect"),
        (101, "status"),
        (404, "status"),
        (410, "status"),
        (429, "status"),
        (500, "status"),
        (503, "status"),
        (999, "status"),
    ],
)
def test_only_2xx_is_success(transport, status, error):
    with Receiver(reply(status, b"")) as receiver:
        exchange = send(transport, receiver.url)
    assert (exchange.status_code, exchange.error) == (status, error)
    assert bool(exchange.detail) == bool(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(transport, status):
    with Receiver(reply()) as internal:
        with Receiver(redirect(internal.url, status)) as receiver:
            exchange = send(transport, receiver.url)
        assert internal.connections == 0
    assert (exchange.status_code, exchange.error) == (status, "redirect")
    assert exchange.headers["location"] == internal.url


def test_headers_of_the_response_are_kept_without_credentials(transport):
    fields = "Set-Cookie: a=b\r\nX-Auth-Token: t\r\nX-Trace: 1\r\nRetry-After: 120\r\n"
    with Receiver(reply(503, headers=fields)) as receiver:
        exchange = send(transport, receiver.url)
    assert exchange.headers == {"x-trace": "1", "retry-after": "120", "content-length": "2"}
    assert exchange.retry_after == "120"


def test_what_is_kept_can_be_stored_in_any_database(transport):
    fields = f"X-Nul: a\0b\r\nX-Latin: \xe9\r\nX-Long: {'x' * 5000}\r\n" + "".join(
        f"X-{n}: {n}\r\n" for n in range(80)
    )
    with Receiver(reply(body=b"a\0b\xff", headers=fields)) as receiver:
        exchange = send(transport, receiver.url)
    assert exchange.body == "ab�"
    assert exchange.headers["x-nul"] == "ab"
    assert len(exchange.headers["x-long"]) == module.MAX_RESPONSE_HEADER_LENGTH
    assert len(exchange.headers) == module.MAX_RESPONSE_HEADERS


def test_interim_responses_are_passed_over(transport):
    before = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    with Receiver(reply(before=before)) as receiver:
        assert send(transport, receiver.url).status_code == 200


# Hostile receivers.


@pytest.mark.parametrize(
    "behaviour",
    [
        "never_reads",
        "silent",
        "drip_status_line",
        "drip_head",
        "drip_continue",
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_no_complete_head_in_time_is_a_timeout(transport, cert, behaviour, tls):
    with (
        Receiver(behaviour, cert.context if tls else None) as receiver,
        trusting(cert) as secure,
    ):
        exchange = send(secure if tls else transport, receiver.url)
    assert (exchange.error, exchange.status_code) == ("timeout", None)
    assert exchange.duration_ms >= DEADLINE * 1000 - 50


def test_the_clock_judges_an_answer_that_came_all_the_same(transport, monkeypatch):
    post = module._Guarded.post

    def late(*args, **kwargs):
        response = post(*args, **kwargs)
        time.sleep(DEADLINE)
        return response

    monkeypatch.setattr(module._Guarded, "post", late)
    with Receiver(reply()) as receiver:
        exchange = send(transport, receiver.url)
    assert (exchange.error, exchange.status_code) == ("timeout", None)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("tls_silent", "timeout"), ("tls_drip", "timeout"), ("tls_garbage", "tls")],
)
def test_a_handshake_that_never_comes_is_no_connection(cert, behaviour, error):
    with Receiver(behaviour) as receiver, trusting(cert) as secure:
        exchange = send(secure, receiver.url)
    assert (exchange.error, exchange.status_code) == (error, None)


@pytest.mark.parametrize("tls", [False, True])
def test_a_receiver_that_never_reads_a_megabyte_is_a_timeout(transport, cert, tls):
    with (
        Receiver("never_reads", cert.context if tls else None) as receiver,
        trusting(cert) as secure,
    ):
        exchange = send(secure if tls else transport, receiver.url, body=bytes(8_000_000))
    assert exchange.error == "timeout"


@pytest.mark.parametrize("behaviour", ["drip_body", "drip_chunks"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_2xx_with_its_headers_in_time_is_success_whatever_the_body_does(
    transport, cert, behaviour, tls
):
    with (
        Receiver(behaviour, cert.context if tls else None) as receiver,
        trusting(cert) as secure,
    ):
        exchange = send(secure if tls else transport, receiver.url)
    assert (exchange.status_code, exchange.error) == (200, "")
    assert 0 < len(exchange.body) < 100


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/pl",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
        b"HTTP/1.1 100 Continue\r\n",
        b"<html>an HTTP/0.9 answer</html>",
        b"\x00\xff" * 500,
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 -20 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: %s\r\n" % (b"y" * 9000) * 20 + b"\r\n",
    ],
)
def test_what_is_not_a_whole_http_head_is_a_failed_connection(transport, answer):
    with Receiver(raw(answer)) as receiver:
        exchange = send(transport, receiver.url)
        assert receiver.connections == 1
    assert (exchange.error, exchange.status_code) == ("connection", None)


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        (b"X-A:1\r\nx-b: \t 2 \r\n", {"x-a": "1", "x-b": "2"}),
        (b"x-a: 1\r\nX-A: 2\r\n", {"x-a": "1, 2"}),
        (b"x-a: 1\r\n\t 2\r\n 3\r\nx-b: 4\r\n", {"x-a": "1 2 3", "x-b": "4"}),
        (b" x-a: 1\r\nx-b: 2\r\n", {"x-a": "1", "x-b": "2"}),
        (b"x-a : 1\r\n", {"x-a": "1"}),
        (b"no header\r\nx-a: 1\r\n", {"x-a": "1"}),
        (b"x-a: 1\nx-b: 2\n", {"x-a": "1", "x-b": "2"}),
        (b"x-a: \xe4\r\n", {"x-a": "ä"}),
        (b"x-a:\r\n", {"x-a": ""}),
        (b"x-a: a\rb\x1b[31m\x7f\r\n", {"x-a": "ab[31m"}),
        (b"retry-after: 120\r\nRetry-After: 240\r\n", {"retry-after": "120"}),
    ],
)
def test_a_head_is_read_as_rfc_9112_says(transport, fields, headers):
    answer = b"HTTP/1.1 200 OK\r\n" + fields + b"content-length: 2\r\n\r\nok"
    with Receiver(raw(answer)) as receiver:
        exchange = send(transport, receiver.url)
    assert (exchange.error, exchange.body) == ("", "ok")
    assert exchange.headers == {**headers, "content-length": "2"}


@pytest.mark.parametrize(
    ("head", "body", "text", "connections"),
    [
        (b"200 OK\r\ncontent-length: 2\r\n", b"ok", "ok", 1),
        (b"200 OK\r\ncontent-length: 2, 2\r\n", b"ok", "ok", 1),
        (b"200 OK\r\ntransfer-encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n", "ok", 1),
        (
            b"200 OK\r\ntransfer-encoding: x, Chunked\r\ncontent-length: 9\r\n",
            b"2\r\nok\r\n0\r\n\r\n",
            "ok",
            2,
        ),
        (b"200 OK\r\ntransfer-encoding: x, Chunked\r\n", b"2\r\nok\r\n0\r\n\r\n", "ok", 1),
        (b"204 No Content\r\n", b"", "", 1),
        (b"204 No Content\r\ntransfer-encoding: chunked\r\n", b"", "", 1),
        (b"200 OK\r\ncontent-length: 2\r\nconnection: close\r\n", b"ok", "ok", 2),
        (b"200 OK\r\ncontent-length: 3\r\n", b"ok", "ok", 2),
        (b"200 OK\r\ntransfer-encoding: chunked\r\n", b"2\r\nok\r\nzz\r\n", "ok", 2),
    ],
)
def test_a_connection_is_used_again_where_the_body_has_a_known_end(
    transport, head, body, text, connections
):
    def behaviour(peer):
        while peer.read_request():
            peer.write(b"HTTP/1.1 " + head + b"\r\n" + body)

    with Receiver(behaviour) as receiver:
        for _ in range(2):
            exchange = send(transport, receiver.url)
            assert (exchange.error, exchange.body) == ("", text)
        assert receiver.connections == connections


@pytest.mark.parametrize(
    "lengths", [b"2\r\ncontent-length: 3", b"2, 3", b"-2", b"two", b"+2", b"0" * 5000]
)
def test_a_body_whose_end_nobody_knows_is_a_failed_connection(transport, lengths):
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: " + lengths + b"\r\n\r\nok"
    with Receiver(raw(answer)) as receiver:
        assert send(transport, receiver.url).error == "connection"


@pytest.mark.parametrize("behaviour", ["accept_and_close", "reset"])
def test_a_new_connection_that_dies_is_not_tried_again(transport, behaviour):
    with Receiver(behaviour) as receiver:
        exchange = send(transport, receiver.url)
        assert receiver.connections == 1
    assert exchange.error == "connection"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "behaviour",
    [
        "flood_continue",
        "flood_early_hints",
        "endless_hint",
        "endless_status_line",
        "endless_header",
        "huge_headers",
    ],
)
def test_an_endless_head_is_cut_short(transport, cert, behaviour, tls):
    with (
        Receiver(behaviour, cert.context if tls else None) as receiver,
        trusting(cert) as secure,
    ):
        exchange = send(secure if tls else transport, receiver.url, timeout=5)
    assert (exchange.error, exchange.status_code) == ("connection", None)
    assert exchange.duration_ms < 2000


@pytest.mark.parametrize("behaviour", ["endless_chunk_size", "endless_trailer"])
def test_endless_lines_between_chunks_are_cut_short(transport, behaviour):
    with Receiver(behaviour) as receiver:
        exchange = send(transport, receiver.url, timeout=5)
    assert (exchange.status_code, exchange.error) == (200, "")
    assert exchange.duration_ms < 2000


@pytest.mark.parametrize("body", [b"2\r\nok\r\nzz\r\n", b"2\r\nok\r\n-5\r\n", b"2\r\nok", b""])
def test_broken_chunks_after_a_2xx_are_success(transport, body):
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body
    with Receiver(raw(answer)) as receiver:
        exchange = send(transport, receiver.url)
    assert (exchange.status_code, exchange.error) == (200, "")


@pytest.mark.parametrize("behaviour", ["gzip_bomb", "endless_body"])
def test_a_huge_body_is_neither_decoded_nor_read_on(behaviour):
    transport = Transport(allow_http=True, allowed_networks=LOOPBACK, max_response_bytes=1000)
    with Receiver(behaviour) as receiver:
        send(transport, receiver.url)
        before = resident_bytes()
        for _ in range(5):
            exchange = send(transport, receiver.url, timeout=5)
        grown = resident_bytes() - before
    transport.close()
    assert (exchange.status_code, exchange.error) == (200, "")
    assert 0 < len(exchange.body) <= 1000
    assert grown < 20_000_000


def resident_bytes() -> int:
    """Of this process; the receiver, which has the bomb in memory, is part of it."""
    path = Path("/proc/self/statm")
    if not path.exists():
        pytest.skip("needs /proc")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_refused_connection(transport):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    exchange = send(transport, f"http://127.0.0.1:{port}/?token=canary")
    assert exchange.error == "connection"
    assert "ConnectionRefusedError" in exchange.detail
    assert "canary" not in exchange.detail
    assert "127.0.0.1" not in exchange.detail


# TLS.


def test_https_verifies_the_certificate_under_the_name_of_the_host(cert, names):
    names["receiver.example"] = ["127.0.0.1"]
    seen = []
    cert.context.sni_callback = lambda sock, name, context: seen.append(name)
    with Receiver(reply(), cert.context) as receiver, trusting(cert) as transport:
        exchange = send(transport, f"https://receiver.example:{receiver.port}/")
    cert.context.sni_callback = None
    assert exchange.error == ""
    assert seen == ["receiver.example"]
    assert receiver.requests[0].headers["host"] == f"receiver.example:{receiver.port}"


@pytest.mark.parametrize(
    ("names_", "expired", "trusted"),
    [
        (["127.0.0.1"], False, False),
        (["127.0.0.1"], True, True),
        (["other.example", "127.0.0.2"], False, True),
    ],
)
def test_a_bad_certificate_gets_no_request(names_, expired, trusted):
    with certificate(*names_, expired=expired) as cert:
        transport = Transport(allowed_networks=LOOPBACK, ca_bundle=cert.path if trusted else None)
        with Receiver(reply(), cert.context) as receiver:
            exchange = send(transport, receiver.url)
    transport.close()
    assert exchange.error == "tls"
    assert receiver.requests == []


def test_tls_is_1_2_or_newer(cert):
    context = module._tls_context(cert.path)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


# The guard.


@pytest.mark.parametrize(
    "answers",
    [["10.0.0.1"], ["93.184.216.34", "::1"], ["93.184.216.34", "169.254.169.254"], ["fe80::1%2"]],
)
def test_a_name_with_any_refused_answer_is_never_connected_to(names, connects, answers):
    names["mixed.example"] = answers
    exchange = send(Transport(), "https://mixed.example/")
    assert (exchange.error, connects) == ("blocked", [])
    assert not any(answer in exchange.detail for answer in answers)
    assert names.asked == ["mixed.example"]


@pytest.mark.parametrize(
    "info",
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/run/docker.sock"),
        (40, socket.SOCK_STREAM, 0, "", (0x5DB8D822, 80)),  # AF_VSOCK: a number that is an IPv4's
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (b"\x5d\xb8\xd8\x22", 80)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2606:4700::1", 80, 0, 7)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("<broadcast>", 80)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("", 80)),
    ],
)
def test_an_answer_that_is_no_ip_address_is_refused(monkeypatch, connects, info):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [info])
    exchange = send(Transport(), "https://odd.example/")
    assert (exchange.error, connects) == ("blocked", [])


def test_private_and_metadata_read_the_same(names):
    names.update({"a.example": ["10.0.0.1"], "b.example": ["169.254.169.254"]})
    transport = Transport()
    details = {send(transport, f"https://{host}.example/").detail for host in "ab"}
    assert len(details) == 1


def test_the_peer_is_checked_once_more_after_connecting(names, monkeypatch):
    names["receiver.example"] = ["93.184.216.34"]
    with Receiver(reply()) as receiver:
        connect = socket.socket.connect

        def elsewhere(self, address):
            connect(self, ("127.0.0.1", receiver.port))

        monkeypatch.setattr(socket.socket, "connect", elsewhere)
        transport = Transport(allow_http=True)
        exchange = send(transport, "http://receiver.example/")
        assert receiver.requests == []
    assert exchange.error == "blocked"


@pytest.mark.parametrize(
    "url", ["http://93.184.216.34/", "https://localhost/", "https://a@b.example/", "", "x", None]
)
def test_the_rules_for_urls_hold_at_the_send_too(names, connects, url):
    exchange = send(Transport(), url)
    assert (exchange.error, connects, names.asked) == ("blocked", [], [])


def test_one_look_up_for_each_connection(transport, names):
    names["receiver.example"] = ["127.0.0.1"]
    with Receiver(reply()) as receiver:
        for _ in range(3):
            assert send(transport, f"http://receiver.example:{receiver.port}/").error == ""
    assert names.asked == ["receiver.example"]


def test_the_next_address_is_tried_within_the_deadline(names):
    names["receiver.example"] = ["127.0.0.9", "127.0.0.1"]
    transport = Transport(allow_http=True, allowed_networks=LOOPBACK)
    with Receiver(reply()) as receiver:
        exchange = send(transport, f"http://receiver.example:{receiver.port}/")
    transport.close()
    assert exchange.error == ""


def test_an_address_that_is_silent_leaves_time_for_the_next(names, monkeypatch):
    names["receiver.example"] = ["127.0.0.9", "127.0.0.1"]
    connect = socket.socket.connect

    def silent(self, address):
        if address[0] == "127.0.0.9":
            time.sleep(self.gettimeout())
            raise TimeoutError
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", silent)
    transport = Transport(allow_http=True, allowed_networks=LOOPBACK)
    with Receiver(reply()) as receiver:
        exchange = send(transport, f"http://receiver.example:{receiver.port}/")
    transport.close()
    assert exchange.error == ""


def test_an_unknown_name(transport, names):
    assert send(transport, "http://nowhere.example/").error == "dns"


def test_a_resolver_that_hangs_is_left_behind(transport, hanging_resolver):
    exchange = send(transport, "http://slow.example/")
    assert exchange.error == "dns"
    assert exchange.duration_ms >= DEADLINE * 1000 - 50


def test_hanging_look_ups_do_not_pile_up(transport, hanging_resolver, monkeypatch):
    monkeypatch.setattr(module, "_places", threading.BoundedSemaphore(2))
    for number in range(5):
        assert send(transport, f"http://slow{number}.example/", timeout=0.05).error == "dns"
    assert len(hanging_resolver) == 2


def test_one_name_that_hangs_takes_no_place_of_others(transport, hanging_resolver):
    for _ in range(5):
        assert send(transport, "http://slow.example/", timeout=0.05).error == "dns"
    assert hanging_resolver == ["slow.example"]


def test_a_name_is_asked_for_anew_once_it_was_answered(transport, names):
    for _ in range(2):
        assert send(transport, "http://nowhere.example/").error == "dns"
    assert names.asked == ["nowhere.example"] * 2


@pytest.fixture
def hanging_resolver(monkeypatch):
    """The names that are being looked up."""
    asked, released = [], threading.Event()

    def getaddrinfo(host, *args, **kwargs):
        asked.append(host)
        released.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    released.set()
    while module._lookups:  # before the resolver and the places are put back
        time.sleep(0.01)


# Connections: reused, and given up.


def one_request_per_connection(end):
    """Answer once as if the connection stayed, then `end` it as the second request arrives."""

    def behaviour(peer):
        peer.read_request()
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        peer.read_head()
        end(peer)

    return behaviour


@pytest.mark.parametrize("tls", [False, True])
def test_connections_are_reused(transport, cert, tls):
    with (
        Receiver(reply(), cert.context if tls else None) as receiver,
        trusting(cert) as secure,
    ):
        for _ in range(5):
            assert send(secure if tls else transport, receiver.url).error == ""
    assert (receiver.connections, len(receiver.requests)) == (1, 5)


def test_an_answer_that_is_not_read_whole_is_not_reused():
    transport = Transport(allow_http=True, allowed_networks=LOOPBACK, max_response_bytes=10)
    with Receiver(reply(body=b"x" * 100)) as receiver:
        assert [send(transport, receiver.url).body for _ in range(2)] == ["x" * 10] * 2
        assert receiver.connections == 2
    transport.close()


@pytest.mark.parametrize("end", [receivers.Peer.reset, receivers.accept_and_close])
@pytest.mark.parametrize("tls", [False, True])
def test_a_reused_connection_that_died_is_replaced_once(transport, cert, end, tls):
    behaviour = one_request_per_connection(end)
    with (
        Receiver(behaviour, cert.context if tls else None) as receiver,
        trusting(cert) as secure,
    ):
        for _ in range(4):
            assert send(secure if tls else transport, receiver.url).error == ""
    assert (receiver.connections, len(receiver.requests)) == (4, 4)


def test_the_replacement_is_a_new_connection_not_another_idle_one(transport):
    together = threading.Barrier(2, timeout=5)

    def behaviour(peer):
        peer.read_request()
        if peer.number <= 2:
            together.wait()  # two at once, so that two connections are idle afterwards
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        peer.read_head()
        peer.reset()

    with Receiver(behaviour) as receiver, ThreadPoolExecutor(2) as pool:
        wanted = [request(receiver.url, timeout=3)] * 2
        assert [done.error for done in pool.map(transport.send, wanted)] == ["", ""]
        assert receiver.connections == 2
        with oldest_first(transport):  # as another thread's turn in between would
            assert send(transport, receiver.url).error == ""
        assert (receiver.connections, len(receiver.requests)) == (3, 3)


@contextmanager
def oldest_first(transport):
    (waiting,) = transport._adapter._idle._waiting.values()
    waiting.reverse()
    yield


def test_idle_connections_are_no_more_than_may_be():
    receivers = [Receiver(reply()) for _ in range(3)]
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(each).url for each in receivers)
        transport = Transport(allow_http=True, allowed_networks=LOOPBACK, max_idle=2)
        stack.callback(transport.close)
        for url in (first, second, third, third, second, first):
            assert send(transport, url).error == ""
    assert [each.connections for each in receivers] == [2, 1, 1]


def test_a_connection_that_comes_back_after_the_end_is_closed(transport):
    with Receiver(reply()) as receiver:
        assert send(transport, receiver.url).error == ""
        (waiting,) = transport._adapter._idle._waiting.values()
        (connection,) = waiting
        transport.close()
        assert connection.is_closed
        assert send(transport, receiver.url).error == ""
        assert not transport._adapter._idle._waiting


def test_a_connection_that_replaced_a_closed_one_counts_as_new(transport):
    def behaviour(peer):
        peer.read_request()
        if peer.number == 1:
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with Receiver(behaviour) as receiver:
        assert send(transport, receiver.url).error == ""
        time.sleep(0.1)  # the end of the idle connection arrives
        assert send(transport, receiver.url).error == "connection"
        assert receiver.connections == 2


def test_a_receiver_that_hangs_on_a_kept_connection_is_a_timeout(transport, names):
    def behaviour(peer):
        peer.read_request()
        if peer.number == 1:
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            peer.read_request()
        time.sleep(2 * DEADLINE)

    names["hook.example"] = ["127.0.0.1"]
    with Receiver(behaviour) as receiver:
        url = receiver.url.replace("127.0.0.1", "hook.example")
        assert [send(transport, url).error for _ in range(2)] == ["", "timeout"]


def test_an_upgrade_that_nobody_asked_for_holds_up_nobody(transport):
    def behaviour(peer):
        peer.read_request()
        peer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")
        time.sleep(DEADLINE)

    with Receiver(behaviour) as receiver:
        exchange = send(transport, receiver.url)
    assert (exchange.error, exchange.status_code) == ("status", 101)
    assert exchange.duration_ms < DEADLINE * 500


def test_the_replacement_is_the_last_try(transport):
    def behaviour(peer):
        if peer.number == 1:
            one_request_per_connection(receivers.Peer.reset)(peer)

    with Receiver(behaviour) as receiver:
        assert send(transport, receiver.url).error == ""
        assert send(transport, receiver.url).error == "connection"
        assert receiver.connections == 2


def test_a_request_that_got_an_answer_begun_is_not_sent_again(transport):
    def half_an_answer(peer):
        peer.write(b"HTTP/1.1 200 OK\r\nx: y")

    with Receiver(one_request_per_connection(half_an_answer)) as receiver:
        assert send(transport, receiver.url).error == ""
        assert send(transport, receiver.url).error == "connection"
        assert receiver.connections == 1


def test_many_threads_at_once(transport):
    with Receiver(reply(body=b"")) as receiver, ThreadPoolExecutor(16) as pool:
        exchanges = list(
            pool.map(lambda n: transport.send(request(receiver.url, timeout=20)), range(300))
        )
    assert {exchange.error for exchange in exchanges} == {""}
    assert len(receiver.requests) == 300
    assert receiver.connections <= 16


def test_close_ends_what_is_in_flight(transport):
    with Receiver("silent") as receiver, ThreadPoolExecutor(1) as pool:
        future = pool.submit(transport.send, request(receiver.url, timeout=15))
        while not receiver.requests:
            time.sleep(0.01)
        transport.close()
        assert future.result(timeout=2).error == "connection"
        assert receiver.connections == 1


def test_close_ends_idle_connections_at_once(transport):
    ended = threading.Event()

    def behaviour(peer):
        reply()(peer)
        ended.set()

    with Receiver(behaviour) as receiver:
        assert send(transport, receiver.url).error == ""
        transport.close()
        assert ended.wait(1)


# Nothing from the surroundings, nothing into the logs.


def test_cookies_are_not_kept(transport):
    with Receiver(reply(headers="set-cookie: a=b; path=/\r\n")) as receiver:
        send(transport, receiver.url)
        send(transport, receiver.url)
    assert all("cookie" not in received.headers for received in receiver.requests)


def test_proxies_and_netrc_of_the_environment_are_ignored(transport, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Receiver(reply()) as receiver, Receiver(reply()) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert send(transport, receiver.url).error == ""
    assert proxy.connections == 0
    assert "authorization" not in receiver.requests[0].headers


def test_logs_never_hold_the_query(transport, caplog):
    caplog.set_level("DEBUG")
    fields = "content-length: 1, 2\r\ntransfer-encoding: chunked\r\nbroken header\r\n"
    with Receiver(reply(headers=fields)) as receiver:
        send(transport, receiver.url + "?token=canary")
        assert "canary" not in caplog.text


def test_importing_starts_no_thread():
    code = "import threading, django_webhooks.transport as t; t.Transport(); "
    code += "assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# The egress proxy.


def test_plain_http_goes_through_the_proxy(names):
    with Receiver(reply()) as proxy:
        transport = Transport(allow_http=True, proxy=f"http://me:pw@127.0.0.1:{proxy.port}")
        exchange = send(transport, "http://receiver.example/hook")
    transport.close()
    assert exchange.error == ""
    assert proxy.requests[0].line == "POST http://receiver.example/hook HTTP/1.1"
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
    assert names.asked == []


def test_one_host_can_not_answer_for_the_next_on_a_connection_to_the_proxy(names):
    with Receiver() as proxy:
        transport = Transport(allow_http=True, proxy=f"http://127.0.0.1:{proxy.port}")
        for host in "ab":
            assert send(transport, f"http://{host}.example/").error == ""
        assert proxy.connections == 2
        assert not transport._adapter._idle._waiting
    transport.close()


def tunnel_to(port):
    def behaviour(peer):
        peer.receiver.requests.append(peer.read_head())
        with socket.socket() as target:
            target.connect(("127.0.0.1", port))
            peer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=pump, args=(target, peer.sock), daemon=True)
            back.start()
            pump(peer.sock, target)

    return behaviour


def pump(source, target):
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass


def test_https_tunnels_through_the_proxy_and_is_verified_end_to_end(cert, names):
    with (
        Receiver(reply(), cert.context) as receiver,
        Receiver(tunnel_to(receiver.port)) as proxy,
        trusting(cert, allowed_networks=(), proxy=f"http://127.0.0.1:{proxy.port}") as transport,
    ):
        assert send(transport, "https://receiver.example/").error == ""
        assert send(transport, "https://other.example/").error == "tls"
    assert proxy.requests[0][0].startswith("CONNECT receiver.example:443 ")
    assert "authorization" not in receiver.requests[0].headers
    assert names.asked == []


def test_a_literal_private_target_is_refused_before_the_proxy():
    with Receiver(reply()) as proxy:
        transport = Transport(allow_http=True, proxy=f"http://127.0.0.1:{proxy.port}")
        exchange = send(transport, "http://169.254.169.254/latest/")
        assert proxy.connections == 0
    assert exchange.error == "blocked"


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (raw(b"HTTP/1.1 403 No\r\n\r\n"), "proxy"),
        (raw(b"HTTP/1.1 103 Early"), "proxy"),
        ("accept_and_close", "proxy"),
        ("never_reads", "timeout"),
    ],
)
def test_a_proxy_that_does_not_connect(behaviour, error):
    with Receiver(behaviour) as proxy:
        transport = Transport(proxy=f"http://127.0.0.1:{proxy.port}")
        exchange = send(transport, "https://receiver.example/?token=canary")
    transport.close()
    assert exchange.error == error
    assert "canary" not in exchange.detail


# Headers.


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "a\r\nX-B: b"},
        {"X-A": "a\0"},
        {"X-A": " a"},
        {"X-A": "é"},
        {"X-A": b"a"},
        {"X A": "a"},
        {"": "a"},
        {"Host": "evil.example"},
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": "3"},
        {1: "a"},
    ],
)
def test_a_header_that_breaks_the_framing_is_not_sent(transport, headers):
    with Receiver(reply()) as receiver:
        exchange = send(transport, receiver.url, headers=headers)
        assert receiver.connections == 0
    assert exchange.error == "headers"


FORBIDDEN = """
Host content-LENGTH Content-Type Content-Encoding Transfer-Encoding Connection Keep-Alive TE
Trailer Upgrade Expect Proxy-Authorization Sec-Fetch-Mode Cookie Forwarded X-Forwarded-For
X-Real-IP Via Accept-Encoding User-Agent Webhook-Signature
"""


@pytest.mark.parametrize(
    "name",
    [
        *FORBIDDEN.split(),
        *["webhook-id", "X_A", "X:A", "X-A\n", "é", "", "X A", "x" * 65, None, 1],
    ],
)
def test_forbidden_custom_headers(name):
    with pytest.raises(ValueError, match="header"):
        check_headers({name: "value"})


@pytest.mark.parametrize(
    "value",
    ["canary\0", "canary\r\n b", " canary", "canary ", "é", "canary" * 200, None, b"canary", 1],
)
def test_forbidden_values_are_named_but_not_quoted(value):
    with pytest.raises(ValueError, match="X-Key") as caught:
        check_headers({"X-Key": value})
    assert "canary" not in str(caught.value)


def test_too_many_or_doubled_headers():
    with pytest.raises(ValueError, match="more than 20"):
        check_headers({f"X-{n}": "" for n in range(21)})
    with pytest.raises(ValueError, match="twice"):
        check_headers({"X-A": "1", "x-a": "2"})
    with pytest.raises(ValueError, match="mapping"):
        check_headers([("X-A", "1")])


def test_harmless_custom_headers():
    check_headers({"Authorization": "Bearer x.y", "X-Team": "a b", "Date": "", "Teapot": "1"})


# Whatever else goes wrong.


@pytest.mark.parametrize(
    "broken",
    [None, Request("https://a.example", {}, "text", 1), Request("https://a.example", None, b"", 1)],
)
def test_send_never_raises(broken, connects):
    exchange = Transport().send(broken)
    assert exchange.error == "internal"
    assert connects == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_no_time_is_a_timeout(transport, timeout):
    with Receiver(reply()) as receiver:
        exchange = transport.send(request(receiver.url, timeout=timeout))
    assert exchange.error == "timeout"


def test_an_answer_that_was_sent_ahead_is_not_the_answer_to_the_next_request(transport):
    """Else a receiver, or whoever else can write into its connection, answers unasked."""

    def behaviour(peer):
        peer.read_request()
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        peer.write(answer)
        time.sleep(0.1)  # past the buffer of the first answer, into the idle connection
        peer.write(answer)
        peer.wait()

    with Receiver(behaviour) as receiver:
        assert send(transport, receiver.url).error == ""
        time.sleep(0.3)
        assert send(transport, receiver.url).error == ""
        assert (receiver.connections, len(receiver.requests)) == (2, 2)


def test_the_lines_of_the_proxys_answer_are_bounded_too():
    behaviour = receivers.then_flood(b"HTTP/1.1 200 Connected\r\n", b"x: y\r\n" * 1000)
    with Receiver(behaviour) as proxy:
        transport = Transport(proxy=f"http://127.0.0.1:{proxy.port}")
        exchange = send(transport, "https://receiver.example/", timeout=5)
    transport.close()
    assert exchange.error == "proxy"
    assert exchange.duration_ms < 2000
