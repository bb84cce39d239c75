"""What each hostile receiver costs the sender: python -m tests.benchmarks.hostile

Prints the table of docs/explanation/security.md: for each behaviour, without and with TLS, what
the sender made of it, how long it took, by how much that is beyond the deadline, and how far its
memory grew meanwhile. The receiver is another process, so that the memory is the sender's
alone. Needs Linux, for the high-water mark of memory.
"""

import multiprocessing
import os
import re
import ssl
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import certifi
import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django_webhooks.testing.receivers import BEHAVIOURS, Receiver  # noqa: E402
from django_webhooks.transport import Exchange, Request, Transport  # noqa: E402
from tests.certificates import certificate  # noqa: E402

DEADLINE = 2.0
BODY = bytes(1_000_000)  # more than the buffers between us take, for who never reads
LIMIT_SECONDS, LIMIT_MB = 1.0, 20.0


@dataclass(frozen=True)
class Cost:
    exchange: Exchange
    megabytes: float

    @property
    def seconds(self) -> float:
        return self.exchange.duration_ms / 1000

    @property
    def beyond(self) -> float:
        return max(0.0, self.seconds - DEADLINE)

    @property
    def outcome(self) -> str:
        return self.exchange.error or f"HTTP {self.exchange.status_code}"


def measure(url: str, warm_up: str, ca_bundle: str) -> Cost:
    """In a process of its own, after one harmless exchange that loads what is loaded once."""
    transport = Transport(
        allow_http=True, allowed_networks=[ip_network("127.0.0.0/8")], ca_bundle=ca_bundle
    )
    transport.send(Request(warm_up, {}, BODY, DEADLINE))
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew, proc(5)
    before = memory("VmRSS")
    exchange = transport.send(Request(url, {}, BODY, DEADLINE))
    return Cost(exchange, (memory("VmHWM") - before) / 1000)


def memory(what: str) -> int:
    """In kB, from /proc/self/status."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def cost_of(behaviour: str, tls: ssl.SSLContext | None, ca_bundle: str) -> Cost:
    spawn = multiprocessing.get_context("spawn")
    with (
        Receiver("ok", tls) as harmless,
        Receiver(behaviour, tls) as receiver,
        ProcessPoolExecutor(1, spawn) as sender,
    ):
        return sender.submit(measure, receiver.url, harmless.url, ca_bundle).result()


def costs() -> Iterator[tuple[str, list[Cost]]]:
    """(what it is, what it cost: without TLS if that can be, and with it)."""
    with certificate("127.0.0.1") as good:
        for name in BEHAVIOURS:
            ways = [good.context] if name.startswith("tls_") else [None, good.context]
            yield f"`{name}`", [cost_of(name, tls, good.path) for tls in ways]
        yield "certificate: self-signed", [cost_of("ok", good.context, certifi.where())]
    for what, make in {
        "certificate: other host": certificate("other.example"),
        "certificate: expired": certificate("127.0.0.1", expired=True),
    }.items():
        with make as bad:
            yield what, [cost_of("ok", bad.context, bad.path)]


def row(name: str, found: list[Cost]) -> str:
    cells = [
        name,
        " / ".join(dict.fromkeys(each.outcome for each in found)),
        " / ".join(f"{each.seconds:.2f}" for each in found),
        f"{max(each.beyond for each in found):.2f}",
        " / ".join(f"{each.megabytes:.1f}" for each in found),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    print(f"Deadline {DEADLINE:g} s, body {len(BODY) / 1e6:g} MB; without TLS / with TLS.\n")
    print("| receiver | outcome | seconds | beyond the deadline | MB at the worst |")
    print("|---|---|---|---|---|")
    seen: list[Cost] = []
    for name, found in costs():
        print(row(name, found), flush=True)
        seen += found
    seconds, megabytes = max(each.beyond for each in seen), max(each.megabytes for each in seen)
    print(f"\nWorst: {seconds:.2f} s beyond the deadline, {megabytes:.1f} MB.")
    if seconds > LIMIT_SECONDS or megabytes > LIMIT_MB:
        raise SystemExit(f"That is more than {LIMIT_SECONDS:g} s or {LIMIT_MB:g} MB.")


if __name__ == "__main__":
    main()
