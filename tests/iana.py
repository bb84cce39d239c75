"""An oracle for addresses, from IANA's registries as data; knows nothing of `addresses.py`.

Each row is (prefix, name, whether IANA calls it globally reachable); "N/A" is None. As in the
registries the most specific row decides. https://www.iana.org/assignments/ …
"""

from ipaddress import ip_network

SPECIAL_IPV4 = [  # … iana-ipv4-special-registry
    ("0.0.0.0/8", "this network, RFC 791", False),
    ("0.0.0.0/32", "this host on this network, RFC 1122", False),
    ("10.0.0.0/8", "private use, RFC 1918", False),
    ("100.64.0.0/10", "shared address space, RFC 6598", False),
    ("127.0.0.0/8", "loopback, RFC 1122", False),
    ("169.254.0.0/16", "link local, RFC 3927", False),
    ("172.16.0.0/12", "private use, RFC 1918", False),
    ("192.0.0.0/24", "IETF protocol assignments, RFC 6890", False),
    ("192.0.0.0/29", "IPv4 service continuity prefix, RFC 7335", False),
    ("192.0.0.8/32", "IPv4 dummy address, RFC 7600", False),
    ("192.0.0.9/32", "port control protocol anycast, RFC 7723", True),
    ("192.0.0.10/32", "TURN anycast, RFC 8155", True),
    ("192.0.0.170/32", "NAT64/DNS64 discovery, RFC 8880", False),
    ("192.0.0.171/32", "NAT64/DNS64 discovery, RFC 8880", False),
    ("192.0.2.0/24", "TEST-NET-1, RFC 5737", False),
    ("192.31.196.0/24", "AS112-v4, RFC 7535", True),
    ("192.52.193.0/24", "AMT, RFC 7450", True),
    ("192.88.99.0/24", "deprecated 6to4 relay anycast, RFC 7526", None),
    ("192.88.99.2/32", "6a44 relay anycast, RFC 6751", False),
    ("192.168.0.0/16", "private use, RFC 1918", False),
    ("192.175.48.0/24", "direct delegation AS112 service, RFC 7534", True),
    ("198.18.0.0/15", "benchmarking, RFC 2544", False),
    ("198.51.100.0/24", "TEST-NET-2, RFC 5737", False),
    ("203.0.113.0/24", "TEST-NET-3, RFC 5737", False),
    ("240.0.0.0/4", "reserved, RFC 1112", False),
    ("255.255.255.255/32", "limited broadcast, RFC 919", False),
]

SPECIAL_IPV6 = [  # … iana-ipv6-special-registry
    ("::1/128", "loopback, RFC 4291", False),
    ("::/128", "unspecified, RFC 4291", False),
    ("::ffff:0:0/96", "IPv4-mapped, RFC 4291", False),
    ("64:ff9b::/96", "IPv4-IPv6 translation, RFC 6052", True),
    ("64:ff9b:1::/48", "IPv4-IPv6 translation, RFC 8215", False),
    ("100::/64", "discard only, RFC 6666", False),
    ("100:0:0:1::/64", "dummy prefix, RFC 9780", False),
    ("2001::/23", "IETF protocol assignments, RFC 2928", False),
    ("2001::/32", "Teredo, RFC 4380", None),
    ("2001:1::1/128", "port control protocol anycast, RFC 7723", True),
    ("2001:1::2/128", "TURN anycast, RFC 8155", True),
    ("2001:1::3/128", "DNS-SD SRP anycast, RFC 9665", True),
    ("2001:2::/48", "benchmarking, RFC 5180", False),
    ("2001:3::/32", "AMT, RFC 7450", True),
    ("2001:4:112::/48", "AS112-v6, RFC 7535", True),
    ("2001:10::/28", "deprecated ORCHID, RFC 4843", None),
    ("2001:20::/28", "ORCHIDv2, RFC 7343", True),
    ("2001:30::/28", "drone remote ID, RFC 9374", True),
    ("2001:db8::/32", "documentation, RFC 3849", False),
    ("2002::/16", "6to4, RFC 3056", None),
    ("2620:4f:8000::/48", "direct delegation AS112 service, RFC 7534", True),
    ("3fff::/20", "documentation, RFC 9637", False),
    ("5f00::/16", "segment routing SIDs, RFC 9602", False),
    ("fc00::/7", "unique local, RFC 4193", False),
    ("fe80::/10", "link-local unicast, RFC 4291", False),
]

# What the two address-space registries give out as global unicast; all else is multicast,
# reserved, or returned to IANA: fec0::/10, the IPv4-compatible ::/96.
UNICAST = [("0.0.0.0/1", ""), ("128.0.0.0/2", ""), ("192.0.0.0/3", ""), ("2000::/3", "")]

# Reachable by the letter of the registries, refused all the same.
REFUSED_BEYOND = [
    ("168.63.129.16/32", "Azure's WireServer answers there, inside each virtual machine"),
    ("192.0.0.0/24", "anycast for the network one stands in; 192.0.0.192 is Oracle's metadata"),
    ("2001::/23", "the same in IPv6, and identifiers (ORCHID, drones) that are no hosts"),
    ("64:ff9b::/96", "stands for an IPv4 address, which may be a private one"),
]

_ROWS = [(ip_network(prefix), verdict) for prefix, _, verdict in SPECIAL_IPV4 + SPECIAL_IPV6]
_UNICAST = [ip_network(prefix) for prefix, _ in UNICAST]
_BEYOND = [ip_network(prefix) for prefix, _ in REFUSED_BEYOND]

NETWORKS = [*(network for network, _ in _ROWS), *_UNICAST, *_BEYOND]


def is_reachable(address) -> bool:
    """By IANA alone."""
    special = [(row.prefixlen, verdict) for row, verdict in _ROWS if address in row]
    if special:
        return max(special)[1] is True
    return any(address in network for network in _UNICAST)


def may_be_called(address) -> bool:
    return is_reachable(address) and not any(address in network for network in _BEYOND)
