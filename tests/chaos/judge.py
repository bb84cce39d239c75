"""The verdict: what was committed, what the rows say and what arrived must agree.

The invariants I1 to I9 are those of the design. Each is a function that yields
what breaks it, as sentences.
"""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from django.db import connection
from django.db.models import Max

from django_webhooks.conf import settings
from django_webhooks.exceptions import SignatureError
from django_webhooks.models import Attempt, Delivery, Event, Subscription
from tests.chaos.injector import spare_this_thread
from tests.chaos.ledger import Record
from tests.chaos.shop import WANTED, Change

SWEEP = 60.0
"""Seconds after which the sweep comes by at the latest."""

SAMPLE = 1.0
"""Seconds between two looks of the witness."""

Invariant = Callable[["Evidence"], Iterator[str]]


@dataclass
class Witness:
    """Looks at the rows while all goes on: what is only ever wrong for a while is seen, too."""

    lease: float
    ended: dict[int, str] = field(default_factory=dict)
    """Delivery: the status that was final when it was seen."""
    overdue: float = 0.0
    """Seconds; for how long a lease had run out at the most before somebody took over."""
    too_long: int = 0
    """Leases that end later than a lease may."""
    _seen_until: datetime | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        try:
            spare_this_thread()
            while not self._stop.wait(SAMPLE):
                self._look()
        finally:
            connection.close()

    def stop(self) -> None:
        self._stop.set()

    def _look(self) -> None:
        rows = Delivery.objects.with_now()
        ended = rows.exclude(status="pending")
        if self._seen_until:
            ended = ended.filter(completed_at__gte=self._seen_until - timedelta(seconds=10))
        for pk, status, self._seen_until in ended.order_by("completed_at").values_list(
            "pk", "status", "completed_at"
        ):
            self.ended.setdefault(pk, status)
        for until, now in rows.in_flight().values_list("next_attempt_at", "now"):
            self.overdue = max(self.overdue, (now - until).total_seconds())
            self.too_long += until - now > timedelta(seconds=self.lease + 0.5)


@dataclass(frozen=True)
class Evidence:
    """All that is known in the end."""

    changes: Sequence[Change]
    records: Sequence[Record]
    witness: Witness
    faults: int
    connects: Path
    in_flight: int
    """Requests that one worker may have begun and not yet written down."""

    @cached_property
    def events(self) -> Mapping[str, Event]:
        return {event.pk: event for event in Event.objects.all()}

    @cached_property
    def deliveries(self) -> Mapping[tuple[str, str], Delivery]:
        """By the event's id and the subscription's name."""
        rows = Delivery.objects.select_related("subscription")
        return {(row.event_id, row.subscription.name): row for row in rows}

    @cached_property
    def arrived(self) -> Mapping[tuple[str, str], list[Record]]:
        found: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in self.records:
            found[record.request.id, record.path.rsplit("/", 1)[-1]].append(record)
        return found

    @cached_property
    def abandoned(self) -> Counter[int]:
        """Delivery: how many attempts of it were begun, and their workers never wrote a result
        that counted."""
        rows = Attempt.objects.filter(error="abandoned") | Attempt.objects.filter(stale=True)
        return Counter(pk for pk, _ in rows.values_list("delivery_id", "number").distinct())

    @cached_property
    def doubled(self) -> Mapping[tuple[str, str], int]:
        """What was answered with a 2xx more than once, and how many times too many."""
        counts = {
            key: sum(record.status < 300 for record in records) - 1
            for key, records in self.arrived.items()
        }
        return {key: count for key, count in counts.items() if count > 0}

    def is_timed_out(self, key: tuple[str, str]) -> int:
        """Attempts that arrived, but whose answer came too late: a failure by the rules."""
        return self.deliveries[key].attempts.filter(error="timeout").count()


def everything_committed_is_delivered_or_visibly_failed(evidence: Evidence) -> Iterator[str]:
    """I1"""
    if waiting := Event.objects.waiting().count():
        yield f"{waiting} events were never fanned out"
    found = Counter(
        (row.subscription.name, evidence.events[row.event_id].data["number"],
         evidence.events[row.event_id].action)
        for row in evidence.deliveries.values()
    )  # fmt: skip
    once = [key for key in found if key[0] == "once"]
    if len(once) != 1:
        yield f"the one-time subscription has {len(once)} deliveries"
    wanted = {
        (name, change.number, change.action)
        for change in evidence.changes
        for name, wants in WANTED.items()
        if wants(change)
    }
    for key in wanted - found.keys():
        yield f"no delivery for {key}"
    for key in found.keys() - wanted - set(once):
        yield f"a delivery that nobody asked for: {key}"
    yield from (f"{count} deliveries for {key}" for key, count in found.items() if count > 1)
    for key, row in evidence.deliveries.items():
        expected = "failed" if key[1] in ("dead", "denied") else "succeeded"
        if row.status != expected:
            yield f"{key} is {row.status}: {row.reason}"


def what_succeeded_has_arrived_and_is_signed(evidence: Evidence) -> Iterator[str]:
    """I2"""
    secrets = {row.name: row.signing_secrets for row in Subscription.objects.all()}
    for key, row in evidence.deliveries.items():
        if row.status == "succeeded" and not evidence.arrived.get(key):
            yield f"{key} counts as delivered and never arrived"
    for key, records in evidence.arrived.items():
        for record in records:
            try:
                record.request.verify(secrets[key[1]], now=record.received_at)
            except SignatureError as error:
                yield f"{key}: {error}"
        if len({record.request.body for record in records}) > 1:
            yield f"{key} arrived with different bytes"


def what_arrived_was_committed_and_is_its_receivers(evidence: Evidence) -> Iterator[str]:
    """I3"""
    owners = {row.name: row.owner_id for row in Subscription.objects.all()}
    committed = {(change.number, change.action) for change in evidence.changes}
    for event_id, name in evidence.arrived:
        event = evidence.events.get(event_id)
        if event is None or (event.data["number"], event.action) not in committed:
            yield f"{event_id} arrived at {name} and was never committed"
        elif owners[name] not in (None, event.owner_id):
            yield f"{event_id} of owner {event.owner_id} arrived at {name}"


def what_was_rolled_back_never_was(evidence: Evidence) -> Iterator[str]:
    """I4"""
    for event in evidence.events.values():
        if event.data["number"].startswith("never"):
            yield f"an event of a change that was rolled back: {event}"
    for record in evidence.records:
        if json.loads(record.request.body)["data"]["object"]["number"].startswith("never"):
            yield f"a request about a change that was rolled back: {record.request.id}"


def duplicates_come_from_faults_alone(evidence: Evidence) -> Iterator[str]:
    """I5"""
    for key, records in evidence.arrived.items():
        row = evidence.deliveries.get(key)
        if row and len(records) > row.attempt_count:
            yield f"{key} arrived {len(records)} times in {row.attempt_count} attempts"
    for key, count in evidence.doubled.items():
        row = evidence.deliveries[key]
        if count > evidence.abandoned[row.pk] + evidence.is_timed_out(key):
            yield f"{key} arrived {count} times too often, and no fault tells why"
    doubled, most = sum(evidence.doubled.values()), evidence.faults * evidence.in_flight
    timed_out = sum(map(evidence.is_timed_out, evidence.doubled))
    if doubled - timed_out > most:
        yield f"{doubled} duplicates after {evidence.faults} faults, of {most} in flight"


def nothing_stays_leased(evidence: Evidence) -> Iterator[str]:
    """I6"""
    if count := Delivery.objects.filter(lease_token__isnull=False).count():
        yield f"{count} deliveries are leased although nobody works"
    if evidence.witness.too_long:
        yield f"{evidence.witness.too_long} leases were longer than a lease"
    if evidence.witness.overdue > SWEEP:
        yield f"a lease had run out for {evidence.witness.overdue:.1f} s"


def attempts_are_within_the_schedule(evidence: Evidence) -> Iterator[str]:
    """I7"""
    most = len(settings.RETRY_SCHEDULE) + 1
    rows = Delivery.objects.annotate(last=Max("attempts__number"))
    for row in rows:
        if row.round > most or row.attempt_count != row.last:
            yield f"{row}: {row.attempt_count} attempts, {row.last} told, {most} allowed"


def what_has_ended_stays_so(evidence: Evidence) -> Iterator[str]:
    """I8"""
    now = dict(Delivery.objects.values_list("pk", "status"))
    for pk, status in evidence.witness.ended.items():
        if now.get(pk) != status:
            yield f"delivery {pk} was {status} and is {now.get(pk)}"


def nothing_denied_is_connected_to(evidence: Evidence) -> Iterator[str]:
    """I9"""
    seen = evidence.connects.read_text().splitlines() if evidence.connects.exists() else []
    if not seen:
        yield "no connection was seen at all: the spy is blind"
    for address in sorted({line for line in seen if "127.0.0.1" not in line}):
        yield f"connected to {address}"


INVARIANTS: Sequence[Invariant] = (
    everything_committed_is_delivered_or_visibly_failed,
    what_succeeded_has_arrived_and_is_signed,
    what_arrived_was_committed_and_is_its_receivers,
    what_was_rolled_back_never_was,
    duplicates_come_from_faults_alone,
    nothing_stays_leased,
    attempts_are_within_the_schedule,
    what_has_ended_stays_so,
    nothing_denied_is_connected_to,
)


def is_quiet() -> bool:
    """Whether all has come to an end."""
    return not (Event.objects.waiting().exists() or Delivery.objects.pending().exists())


def wait_for_quiet(seconds: float) -> float | None:
    """How many seconds it took until all had ended; None if it did not."""
    began = time.monotonic()
    while not is_quiet():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.2)
    return time.monotonic() - began
