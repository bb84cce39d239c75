"""How fast a backlog is emptied: python -m tests.benchmarks.drain [DELIVERIES]

Two processes of `webhooks_drain` (one on SQLite) against as many of bare `requests.Session.post`
of the same bytes to the same receiver, which is a process of its own; then with one that answers
after 100 ms, and over TLS. Each process has a core of its own, the bare ones as well; one arm shows
what it is without, and the two with many requests at a time are left to the system, too. Rows of
Event, Delivery and Attempt are written, guards are on. What a run gives is deliveries per second,
from the word to begin until the last process has ended. Makes and removes a test database.
"""

import json
import sys
from contextlib import ExitStack
from functools import partial

from django.db import connection

from django_webhooks import outbox
from django_webhooks.models import Attempt, Delivery, Subscription
from tests.benchmarks.crew import Crew, Work
from tests.benchmarks.lab import (
    Row,
    database,
    empty,
    environment,
    ratio,
    report,
    spread,
    take_turns,
    tidy,
)
from tests.benchmarks.receiver import FastReceiver
from tests.certificates import certificate
from tests.tables import Tables

DELIVERIES = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
"""For each process: some seconds of work, so that what happens once hardly counts."""
ENDPOINTS = 10
DELAY = 0.1
MANY = 512
"""Requests at a time for a receiver that is slow, of all processes together: rate × delay are on
their way at once, so that one process alone has as many as two."""
LONG = 2
"""So many times longer is a backlog for a receiver that is slow: to find out how many requests each
endpoint takes at once needs some rounds, of a tenth of a second there."""

DATA = {
    "id": 4711,
    "number": "2026-004711",
    "status": "paid",
    "total": "129.90",
    "customer": {"name": "Ada Lovelace", "email": "ada@example.com"},
}


def fill(count: int, url: str) -> None:
    """Deliveries that are due, to endpoints at that URL."""
    empty()
    endpoints = [Subscription.objects.create(url=f"{url}/{n}") for n in range(ENDPOINTS)]
    event = outbox.compose("shop.order.created", DATA, action="created")
    told = {"type": event.type, "data": json.dumps(event.data), "body": event.body}
    Tables().due(count, endpoints, **told)
    tidy()


class Bench:
    """Keeps what the runs took of processor, by the name of the arm."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.count = DELIVERIES * processes
        self.cpu: dict[str, list[float]] = {}
        self.receiver: dict[str, list[float]] = {}

    def drain(
        self,
        receiver: FastReceiver,
        name: str,
        *,
        ca_bundle: str = "",
        concurrency: int | None = None,
        longer: int = 1,
        pinned: bool = True,
    ) -> float:
        count = longer * self.count
        fill(count, receiver.url)
        more = {"CONCURRENCY": str(concurrency)} if concurrency else {}
        crew = Crew(
            "drain", self.processes, environment() | more, pinned=pinned, ca_bundle=ca_bundle
        )
        receiver.ask()
        work = crew.run()
        done = Delivery.objects.filter(status=Delivery.Status.SUCCEEDED).count()
        if (done, Attempt.objects.count()) != (count, count):
            raise SystemExit(f"{done} of {count} succeeded.")
        return self._rate(receiver, name, work, count)

    def bare(self, receiver: FastReceiver, name: str, *, ca_bundle: str = "") -> float:
        event = outbox.compose("shop.order.created", DATA, action="created")
        headers = {
            "content-type": "application/json",
            "user-agent": "django-webhooks/0.1.0",
            "webhook-id": event.pk,
            "webhook-timestamp": "1760000000",
            "webhook-signature": "v1," + "x" * 44,
            "webhook-hops": "x" * 32,
        }
        crew = Crew(
            "bare",
            self.processes,
            {},
            pinned=True,
            url=receiver.url,
            count=DELIVERIES,
            body=event.body,
            headers=headers,
            ca_bundle=ca_bundle,
        )
        receiver.ask()
        return self._rate(receiver, name, crew.run(), self.count)

    def _rate(self, receiver: FastReceiver, name: str, work: Work, count: int) -> float:
        seen = receiver.ask()
        if seen.count != count:
            raise SystemExit(f"The receiver saw {seen.count} requests of {count}.")
        self.cpu.setdefault(name, []).append(work.cpu / count * 1e6)
        self.receiver.setdefault(name, []).append(seen.cpu / work.seconds)
        return count / work.seconds


def main() -> None:
    is_sqlite = connection.vendor == "sqlite"
    bench = Bench(1 if is_sqlite else 2)
    many = f"drain, {MANY} at a time"
    late = f"{many}, {DELAY * 1000:.0f} ms"
    with ExitStack() as stack:
        stack.enter_context(database())
        cert = stack.enter_context(certificate("127.0.0.1"))
        fast = stack.enter_context(FastReceiver())
        slow = stack.enter_context(FastReceiver(delay=DELAY))
        tls = stack.enter_context(FastReceiver(certificate=(cert.path, cert.key_path)))
        crowded = partial(
            bench.drain, concurrency=MANY // bench.processes, longer=LONG, pinned=False
        )
        arms = {
            "bare": partial(bench.bare, fast, "bare"),
            "drain": partial(bench.drain, fast, "drain"),
        }
        if not is_sqlite:  # once is enough, for each takes its time
            arms |= {
                many: partial(crowded, fast, many),
                late: partial(crowded, slow, late),
                "drain, TLS": partial(bench.drain, tls, "drain, TLS", ca_bundle=cert.path),
                "drain, left to the system": partial(
                    bench.drain, fast, "drain, left to the system", pinned=False
                ),
            }
        found = take_turns(arms)
        base, ours = found["bare"], found["drain"]
        who = f"{connection.vendor}, {bench.processes} process{'es' * (bench.processes > 1)}"
        must, wish = (0.6, None) if is_sqlite else (1.2, 1.7)
        rows = [
            Row(
                f"drain, {who}",
                spread(ours),
                f"bare `Session.post` {spread(base)}",
                ratio(ours, base),
                must,
                wish,
            ),
            Row(
                f"processor per delivery, {who}",
                spread(bench.cpu["drain"], " µs"),
                f"bare `Session.post` {spread(bench.cpu['bare'], ' µs')}",
                ratio(bench.cpu["drain"], bench.cpu["bare"]),
            ),
        ]
        if not is_sqlite:
            rows += [
                Row(
                    f"drain, receiver answers after {DELAY * 1000:.0f} ms, {who}",
                    spread(found[late]),
                    f"at once {spread(found[many])}, both {MANY} at a time",
                    ratio(found[late], found[many]),
                    0.8,
                ),
                Row(
                    f"drain over TLS, {who}",
                    spread(found["drain, TLS"]),
                    f"plain {spread(ours)}",
                    ratio(found["drain, TLS"], ours),
                    0.8,
                ),
                Row(
                    f"drain, left to the system, {who}",
                    spread(found["drain, left to the system"]),
                    f"bare `Session.post` {spread(base)}",
                    ratio(found["drain, left to the system"], base),
                    must,
                    wish,
                ),
            ]
        busy = max(max(each) for each in bench.receiver.values())
        note = f"The receiver was busy for at most {busy:.0%} of the time: it is not the wall."
        report(f"drain-{connection.vendor}", rows, note)


if __name__ == "__main__":
    main()
