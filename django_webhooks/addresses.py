"""Which URL may be an endpoint, and which IP address may be called.

Two gates. `check_url` looks at the text alone (no DNS, so it tells nothing about the network)
and runs when a URL is saved and again at each send; `check_address` looks at what a name
resolved to and runs in the connection. The second alone is sufficient to keep a request away
from an internal address; the first makes a mistake visible early.

The lists are explicit because `ipaddress.is_global` calls multicast, site-local and the
embedded IPv4 forms global, and differs by patch release of Python.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import idna
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from .exceptions import BlockedAddress, UnsafeURL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA IPv4 Special-Purpose Address Registry (RFC 6890 and its updates), unless noted.
DENIED_IPV4: Sequence[IPv4Network] = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network, RFC 791; Linux takes 0.0.0.0 for the local host
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; metadata service of Alibaba Cloud
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # Azure's WireServer: public by number, internal by use
        "169.254.0.0/16",  # link-local, RFC 3927; metadata services of most clouds
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # IETF protocol assignments, RFC 6890; metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.88.99.0/24",  # 6to4 relay anycast, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "198.18.0.0/15",  # benchmarking, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/3",  # multicast RFC 5771, reserved RFC 1112, broadcast RFC 919
    )
)

# IPv6 is the other way round: only global unicast (RFC 4291 2.4, IANA's one allocation), less:
GLOBAL_IPV6 = IPv6Network("2000::/3")
DENIED_IPV6: Sequence[IPv6Network] = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments, RFC 2928: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, RFC 3056: stands for an IPv4 address
        "3fff::/20",  # documentation, RFC 9637
    )
)

NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

# Never in the public DNS: RFC 6761 and 6762 (appendix G), ICANN's .internal, RFC 8375, 7686, 9476.
RESERVED_SUFFIXES = frozenset((
    "alt", "arpa", "corp", "home", "internal", "intranet", "invalid", "lan", "local",
    "localdomain", "localhost", "onion", "private", "svc",
))  # fmt: skip

ALLOW = "Or have its network added to ALLOWED_NETWORKS."
MAX_URL_LENGTH = 2048

_SHAPE = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)  # WHATWG URL: "ends in a number"


def check_url(
    url: str, *, allow_http: bool = False, allowed_networks: Sequence[Network] = ()
) -> str:
    """The normalised `url` (host as A-labels, no default port), ready to be called.

    Only the text is looked at; a literal address must be allowed. With `allowed_networks`
    single-label names, localhost and the reserved suffixes pass as well: what they resolve
    to is checked in the connection. Raises UnsafeURL, whose text names the mend.
    """
    _check_text(url)
    parts = _parse(url)
    _check_scheme(parts.scheme, allow_http)
    _check_port(parts.port)
    host = _check_host(parts.host or "", allowed_networks)
    port = None if parts.port == {"http": 80, "https": 443}[parts.scheme or ""] else parts.port
    normalised = Url(parts.scheme, None, host, port, parts.path or "/", parts.query).url
    if len(normalised) > MAX_URL_LENGTH:
        raise UnsafeURL(f"The URL is longer than {MAX_URL_LENGTH} characters: shorten it.")
    return normalised


def check_address(address: str, allowed_networks: Sequence[Network] = ()) -> None:
    """Raise BlockedAddress, which reads the same for each reason, unless it may be called."""
    try:
        allowed = is_allowed(ip_address(address), allowed_networks)
    except ValueError:
        allowed = False
    if not allowed:
        raise BlockedAddress(f"The host is not in the public internet: use a public one. {ALLOW}")


def is_allowed(address: Address, allowed_networks: Sequence[Network] = ()) -> bool:
    """Whether `address` is public unicast or in one of `allowed_networks`.

    Fails closed where one address has two readings: a zone id and an IPv4-mapped address
    (::ffff:0:0/96) are refused whatever is allowed, and a NAT64 address counts as allowed
    only if its network *and* the IPv4 address inside are.
    """
    if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
        return False
    if any(address in network for network in allowed_networks):
        return address not in NAT64 or is_allowed(_inner(address), allowed_networks)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in DENIED_IPV4)
    return address in GLOBAL_IPV6 and not any(address in network for network in DENIED_IPV6)


def _inner(address: Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)


def _check_text(url: str) -> None:
    """What two parsers could read differently never reaches a parser."""
    if not isinstance(url, str) or not url:
        raise UnsafeURL("The URL is empty: write it as https://host/path.")
    if len(url) > MAX_URL_LENGTH:
        raise UnsafeURL(f"The URL is longer than {MAX_URL_LENGTH} characters: shorten it.")
    if "\\" in url or " " in url or not url.isprintable():
        raise UnsafeURL("The URL has a space, backslash or invisible character: remove it.")
    if "#" in url:
        raise UnsafeURL("The URL has a fragment, which is never sent: remove the part from #.")
    shape = _SHAPE.match(url)
    if not shape:
        raise UnsafeURL("The URL has no scheme: write it as https://host/path.")
    if "@" in shape[2]:
        raise UnsafeURL("The URL has a user or password: use the Authorization header.")
    if "%" in shape[2]:
        raise UnsafeURL("The host has a % in it: write it plainly, without encoding or zone.")


def _parse(url: str) -> Url:
    """By the parser that the HTTP client uses; it also makes A-labels (IDNA 2008, strict)."""
    try:
        return parse_url(url)
    except (LocationParseError, ValueError):
        raise UnsafeURL("The host or port of the URL is not valid: check the spelling.") from None


def _check_scheme(scheme: str | None, allow_http: bool) -> None:
    if scheme != "https" and not (scheme == "http" and allow_http):
        raise UnsafeURL(
            "The URL must start with http:// or https://."
            if allow_http
            else "The URL must start with https://.",
            hint="" if allow_http else "http:// needs the setting ALLOW_HTTP.",
        )


def _check_port(port: int | None) -> None:
    if port is not None and port not in (80, 443) and not 1024 <= port <= 65535:
        raise UnsafeURL("The port must be 80, 443, or 1024 to 65535: use one of them.")


def _check_host(host: str, allowed_networks: Sequence[Network]) -> str:
    """The host, without the dot that may end a name."""
    if host.startswith("["):
        _check_literal(host[1:-1], allowed_networks)
        return host
    if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        _check_literal(host, allowed_networks)
        return host
    name = host.removesuffix(".")
    _check_name(name)
    if not allowed_networks:
        _check_public_name(name)
    return name


def _check_literal(text: str, allowed_networks: Sequence[Network]) -> None:
    """`ip_address` takes canonical dotted quads only; `127.1` and `0x7f.1` are refused."""
    try:
        address = ip_address(text)
    except ValueError:
        raise UnsafeURL(
            "The host is not a name and not an address of the form 192.0.2.1 or [2001:db8::1]: "
            "check the spelling."
        ) from None
    if not is_allowed(address, allowed_networks):
        raise UnsafeURL("The host is not in the public internet: use a public one.", ALLOW)


def _check_name(name: str) -> None:
    """Letters, digits, hyphens (RFC 1123; the underscore lives on), and real A-labels."""
    labels = name.split(".")
    try:
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise ValueError
            if label.startswith("xn--"):
                idna.ulabel(label)
    except ValueError:  # idna.IDNAError is one
        labels = []
    if not labels or len(name) > 253:
        raise UnsafeURL("The host is not a valid name: check the spelling.")


def _check_public_name(name: str) -> None:
    if "." not in name or name.rpartition(".")[2] in RESERVED_SUFFIXES:
        raise UnsafeURL("The host is a name of a local network: use a public one.", ALLOW)
