"""Which URLs may be saved and which addresses called; each case through both gates."""

import json
import socket
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_webhooks.addresses import check_address, check_url, is_allowed
from django_webhooks.exceptions import BlockedAddress, UnsafeURL
from django_webhooks.testing.receivers import Receiver, raw
from django_webhooks.transport import Request, Transport
from tests import iana

CASES = json.loads(Path(__file__).with_name("data").joinpath("ssrf_cases.json").read_text())

LOOPBACK = (ip_network("127.0.0.0/8"),)
PUBLIC = {"example.com": [["93.184.216.34"]]}


def is_refused_at_registration(url: str) -> bool:
    try:
        check_url(url, allow_http=True)
    except UnsafeURL:
        return True
    return False


class Network:
    """A stubbed resolver and a spy: nothing leaves, every try to connect is kept."""

    def __init__(self, monkeypatch, dns, later=False):
        self.connects = []
        self.look_ups = 0
        self._dns = {host: answers[later and 1 :] or answers for host, answers in dns.items()}
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)
        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, self._connect)

    def _getaddrinfo(self, host, port, *args, **kwargs):
        self.look_ups += 1
        if host not in self._dns:
            # What libc makes of the short, octal and hexadecimal forms.
            try:
                answers = [socket.inet_ntoa(socket.inet_aton(host))]
            except OSError:
                raise socket.gaierror(socket.EAI_NONAME, "unknown") from None
        else:
            answers = self._dns[host][0]
        return [self._info(address, port) for address in answers]

    @staticmethod
    def _info(address, port):
        if ":" in address:
            return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)
        return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)

    def _connect(self, address):
        self.connects.append(address[0])
        raise ConnectionRefusedError


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']} {case['why']}")
def test_blocked_means_that_nothing_connects(case, monkeypatch):
    network = Network(monkeypatch, case.get("dns", {}) | PUBLIC, case.get("phase") == "send")
    refused = is_refused_at_registration(case["url"])
    transport = Transport(allow_http=True)
    exchange = transport.send(Request(case["url"], {}, b"{}", 2))
    assert network.look_ups <= 1
    if case["verdict"] == "block":
        assert network.connects == []
        assert refused or exchange.error == "blocked"
    else:
        assert not refused
        assert network.connects
        assert exchange.error == "connection"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_gate_at_the_send_is_sufficient_alone(case, monkeypatch):
    """Past the URL rules, as if a row was edited by hand or the rules had a hole."""
    network = Network(monkeypatch, case.get("dns", {}) | PUBLIC, case.get("phase") == "send")
    monkeypatch.setattr("django_webhooks.transport.check_url", lambda url, **kwargs: url)
    exchange = Transport().send(Request(case["url"], {}, b"{}", 2))
    assert all(is_allowed(ip_address(address)) for address in network.connects)
    assert exchange.error


# URLs.


@pytest.mark.parametrize(
    ("url", "normalised"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("HTTPS://Example.COM:443/A?b=C", "https://example.com/A?b=C"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("https://example.com./x", "https://example.com/x"),
        ("https://bücher.example/ü?ü", "https://xn--bcher-kva.example/%C3%BC?%C3%BC"),
        ("https://BÜCHER.example/", "https://xn--bcher-kva.example/"),
        ("https://faß.example/", "https://xn--fa-hia.example/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
        ("https://93.184.216.34/", "https://93.184.216.34/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://1.2.3.com/", "https://1.2.3.com/"),
        ("https://example.com/a@b:c?d=e@f%20", "https://example.com/a@b:c?d=e@f%20"),
    ],
)
def test_what_may_be_registered(url, normalised):
    assert check_url(url, allow_http=True) == normalised
    assert check_url(normalised, allow_http=True) == normalised


@pytest.mark.parametrize(
    "url",
    [
        # two parsers, two readings
        "http://127.0.0.1\\@example.com/", "http://example.com\\@127.0.0.1/",
        "http://example.com/\\x", "http://ex%61mple.com/", "http://%31%32%37.0.0.1/", "http://127.0.0.1%00.example.com/",
        "http://exa\tmple.com/", "http://exam\nple.com/", " http://example.com/",
        "http://example.com/\r\nx: y", "http://example.com/\0", "http://example.com/a b",
        "http://exa\u00admple.com/", "http://example.com/\u202e", "http://example.com\u3000/",
        # forms of 127.0.0.1 and 0.0.0.0
        "http://127.1/", "http://127.0.1/", "http://0/", "http://0x7f.1/", "http://0x7f000001/",
        "http://2130706433/", "http://017700000001/", "http://0300.0250.1/", "http://127.0.0.01/",
        "http://0127.0.0.1/", "http://①②⑦.0.0.1/", "http://127。0。0。1/", "http://１２７.0.0.1/",
        "http://127.0.0.1./", "http://127.0.0.1../", "http://1.2.3.4.5/", "http://0x/", "http://0X7F.1/",
        "http://256.1.1.1/", "http://1.1.1/", "http://example.0x1/", "http://example.1/",
        # IPv6 and its embedded forms
        "http://[::1]/", "http://[::]/", "http://[::127.0.0.1]/", "http://[::ffff:7f00:1]/",
        "http://[::ffff:93.184.216.34]/", "http://[::ffff:0:127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/", "http://[2001::1]/", "http://[4000::1]/",
        "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[ff02::1]/", "http://[5f00::1]/",
        "http://[::1", "http://::1/", "http://[v1.fe80]/", "http://[1:2]/", "http://[]/",
        # userinfo, fragment, port, scheme, no host
        "http://a@example.com/", "http://a:b@example.com/", "http://@example.com/",
        "http://example.com#@127.0.0.1/", "http://example.com/#", "http://example.com:22/",
        "http://example.com:0/", "http://example.com:65536/", "http://example.com:99999/",
        "http://example.com:80a/", "http://example.com:-1/", "http://example.com:８０/",
        "http://example.com:80:80/", "ftp://example.com/", "file:///etc/passwd",
        "javascript:alert(1)",
        "gopher://example.com/", "//example.com/", "example.com", "http:example.com",
        "http:/example.com", "http:///example.com", "http://?x", "http://:80/", "http://./", "http://",
        # names
        "http://localhost/", "http://LOCALHOST./", "http://a.localhost/", "http://localhost.localdomain/",
        "http://redis/", "http://printer.local/", "http://a.internal/", "http://a.svc/",
        "http://1.0.0.127.in-addr.arpa/", "http://router.home.arpa/", "http://x.corp/", "http://x.home/",
        "http://x.lan/", "http://x.onion/", "http://x.intranet/", "http://x.private/", "http://x.INTERNAL/",
        "http://a..com/", "http://.com/", "http://-a.com/", "http://a-.com/", "http://a!.com/",
        "http://xn--ls8h=.example/", "http://xn--a.example/", "http://xn--ls8h.example/",
        "http://" + "a" * 64 + ".com/", "http://" + "a." * 127 + "com/", "http://💩.example/",
        "http://loc\u200balhost/", "http://ⓛocalhost/", "http://example.com/" + "a" * 2048,
        "https://example.com/" + "ü" * 1000,
        "", None, 5, b"http://example.com/",
    ],
)  # fmt: skip
def test_what_may_not(url):
    with pytest.raises(UnsafeURL) as caught:
        check_url(url, allow_http=True)
    assert ":" in str(caught.value) or "." in str(caught.value)


def test_plain_http_only_if_allowed():
    with pytest.raises(UnsafeURL, match="https"):
        check_url("http://example.com/")
    assert check_url("http://example.com/", allow_http=True)


def test_the_error_never_quotes_the_url():
    for url in ("http://example.com/?canary", "https://canary/", "https://canary@x.com/"):
        with pytest.raises(UnsafeURL) as caught:
            check_url(url)
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://redis/", "https://localhost:8000/", "https://a.internal/", "https://127.0.0.1/"],
)
def test_allowed_networks_open_the_names_of_an_intranet(url):
    with pytest.raises(UnsafeURL):
        check_url(url)
    assert check_url(url, allowed_networks=LOOPBACK) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/", "https://10.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
        "https://127.1/", "https://a@localhost/", "https://localhost:22/", "https://localhost/#",
    ],
)  # fmt: skip
def test_allowed_networks_open_nothing_else(url):
    with pytest.raises(UnsafeURL):
        check_url(url, allowed_networks=LOOPBACK)


@given(st.text(max_size=40), st.sampled_from(["", "http://", "https://", "http://[", "http://a."]))
def test_any_text_is_a_url_or_unsafe(text, start):
    try:
        normalised = check_url(start + text, allow_http=True)
    except UnsafeURL:
        return
    assert normalised.isascii()
    assert check_url(normalised, allow_http=True) == normalised


# Addresses.


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "::1", "fe80::1%2", "2606:4700:4700::1111%eth0", "::ffff:93.184.216.34",
        "168.63.129.16", "255.255.255.255", "", "localhost", "127.1", "1.1.1.1 ", "fec0::1",
    ],
)  # fmt: skip
def test_a_refused_address_is_not_quoted(address):
    with pytest.raises(BlockedAddress) as caught:
        check_address(address)
    assert not address or address not in str(caught.value)
    assert not isinstance(caught.value, OSError)


def test_an_allowed_network_allows_its_addresses_only():
    check_address("127.0.0.1", LOOPBACK)
    check_address("1.1.1.1", LOOPBACK)
    with pytest.raises(BlockedAddress):
        check_address("10.0.0.1", LOOPBACK)


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("::ffff:127.0.0.1", ["127.0.0.0/8"]),
        ("::ffff:127.0.0.1", ["::/0", "::ffff:0:0/96"]),
        ("fe80::1%eth0", ["fe80::/10", "::/0"]),
        ("64:ff9b::7f00:1", ["64:ff9b::/96"]),
        ("64:ff9b::7f00:1", ["127.0.0.0/8"]),
    ],
)
def test_an_address_of_two_readings_fails_closed(address, networks):
    with pytest.raises(BlockedAddress):
        check_address(address, [ip_network(network) for network in networks])


def test_nat64_reaches_public_ipv4_if_its_network_is_allowed():
    nat64 = [ip_network("64:ff9b::/96")]
    assert is_allowed(ip_address("64:ff9b::5db8:d822"), nat64)
    assert is_allowed(ip_address("64:ff9b::a00:1"), [*nat64, ip_network("10.0.0.0/8")])


# Against the registries of IANA.


def edges():
    """The first and last address of each network of the registries, and their neighbours."""
    for network in iana.NETWORKS:
        kind = type(network[0])
        for edge in (int(network[0]), int(network[-1])):
            for near in (edge - 1, edge, edge + 1):
                if 0 <= near < 2**network.max_prefixlen:
                    yield kind(near)


EDGES = sorted(set(edges()), key=lambda address: (address.version, address))

ADDRESSES = st.one_of(
    st.sampled_from(EDGES),
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.integers(0x2000 << 112, (0x4000 << 112) - 1).map(IPv6Address),  # mostly callable
    st.sampled_from(iana.NETWORKS).flatmap(lambda network: st.ip_addresses(network=network)),
    st.ip_addresses(v=4).map(lambda inner: IPv6Address(int(inner))),  # ::a.b.c.d
    st.ip_addresses(v=4).map(lambda inner: IPv6Address((0xFFFF << 32) + int(inner))),
    st.ip_addresses(v=4).map(lambda inner: IPv6Address((0x64FF9B << 96) + int(inner))),
    st.ip_addresses(v=4).map(lambda inner: IPv6Address((0x2002 << 112) + (int(inner) << 80))),
)


@pytest.mark.parametrize("address", EDGES, ids=str)
def test_the_edges_of_each_range(address):
    assert is_allowed(address) is iana.may_be_called(address)


@given(ADDRESSES)
@example(IPv6Address("2606:4700:4700::1111"))
def test_any_address_agrees_with_the_registries(address):
    assert is_allowed(address) is iana.may_be_called(address)
    assert iana.is_reachable(address) or not is_allowed(address)


# The same from outside: what a whole send connects to, whatever the resolver says.


def as_answer(address, port=443, scope=0):
    if address.version == 4:
        return socket.AF_INET, socket.SOCK_STREAM, 6, "", (str(address), port)
    return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (str(address), port, 0, scope)


@contextmanager
def resolving(look_ups):
    """Each look-up takes the next list of answers; gives a spy, the list of what is dialled."""
    dialled = []

    def getaddrinfo(*args, **kwargs):
        return look_ups.pop(0)

    def connect(self, address):
        dialled.append(ip_address(address[0]))
        raise ConnectionRefusedError

    with (
        mock.patch.object(socket, "getaddrinfo", getaddrinfo),
        mock.patch.object(socket.socket, "connect", connect),
        mock.patch.object(socket.socket, "connect_ex", connect),
    ):
        yield dialled


@given(st.lists(st.lists(ADDRESSES, min_size=1, max_size=4), min_size=1, max_size=3))
@example([[ip_address("93.184.216.34")], [ip_address("127.0.0.1")]])  # rebinding
@example([[ip_address("93.184.216.34"), ip_address("::1")]])  # mixed
def test_a_send_dials_all_answers_of_its_one_look_up_or_none(answers):
    transport = Transport()
    look_ups = [[as_answer(address) for address in addresses] for addresses in answers]
    with resolving(look_ups) as dialled:
        for addresses in answers:
            dialled.clear()
            exchange = transport.send(Request("https://example.com/", {}, b"{}", 5))
            if all(iana.may_be_called(address) for address in addresses):
                assert (exchange.error, dialled) == ("connection", list(dict.fromkeys(addresses)))
            else:
                assert (exchange.error, dialled) == ("blocked", [])
    assert look_ups == []


@given(ADDRESSES, st.integers(1, 2**32 - 1))
def test_an_answer_with_a_scope_is_never_dialled(address, scope):
    with resolving([[as_answer(address, scope=scope)]]) as dialled:
        Transport().send(Request("https://example.com/", {}, b"{}", 5))
    assert not dialled or address.version == 4


@given(ADDRESSES)
def test_a_literal_address_is_dialled_only_if_it_may_be_called(address):
    host = f"[{address}]" if address.version == 6 else str(address)
    with resolving([]) as dialled:
        exchange = Transport().send(Request(f"https://{host}/", {}, b"{}", 5))
    expected = [address] if iana.may_be_called(address) else []
    assert dialled == expected
    assert exchange.error == ("connection" if expected else "blocked")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_no_url_is_reached_by_a_redirect(case, status, redirecting, monkeypatch):
    dialled, connect = [], socket.socket.connect

    def spy(self, address):
        dialled.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", spy)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("looked up"))
    redirecting.behaviour = raw(
        b"HTTP/1.1 %d Any\r\ncontent-length: 0\r\nlocation: %s\r\n\r\n"
        % (status, case["url"].encode())
    )
    transport = Transport(allow_http=True, allowed_networks=LOOPBACK)
    exchange = transport.send(Request(redirecting.url, {}, b"{}", 5))
    transport.close()
    assert (exchange.status_code, exchange.error) == (status, "redirect")
    assert dialled == [("127.0.0.1", redirecting.port)]


@pytest.fixture(scope="module")
def redirecting():
    with Receiver() as receiver:
        yield receiver
