"""What a delivery costs when the tables are large: python -m tests.benchmarks.growth [ROWS]

Claim, fan-out and settle, each per delivery, in a database with ROWS (1,000,000) settled
deliveries against one with 10,000, side by side and in turns. Then a claim before a long queue,
one event that meets 10,000 subscriptions, and 10,000 rules with conditions. No request is made.

On PostgreSQL; makes and removes two databases. With KEEP=1 the large one is kept, and used again
by the next run that wants as many rows: 5,000,000 take minutes to fill.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from functools import partial

from django.db import connections
from django.db.models.functions import Now
from django.utils import timezone

from django_webhooks.claim import Claimer, pace
from django_webhooks.delivery import Outcome, settle
from django_webhooks.fanout import fan_out, match
from django_webhooks.models import Attempt, Delivery, Event, Rule, Subscription
from django_webhooks.transport import Exchange
from tests.benchmarks.fan_out import TREES, seconds, subscriptions, wait
from tests.benchmarks.lab import Row, database, empty, median, ratio, report, spread, take_turns
from tests.tables import Tables

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
FEW = 10_000
SIZES = {"default": FEW, "large": ROWS}
ENDPOINTS = 10
EVENTS, LISTENERS = 100, 10
WANTED = 64
"""Deliveries that are claimed, and settled, at a time."""
AT_ONCE, MATCHINGS = 10_000, 15
SHORT_QUEUE, LONG_QUEUE, CLAIMS = 1000, 100_000, 10
EXCHANGE = Exchange(status_code=200, headers={"content-type": "text/plain"}, body="ok")


def main() -> None:
    if connections["default"].vendor != "postgresql":
        print("growth: on PostgreSQL only.")
        return
    with database():
        add_large()
        try:
            print(f"filling: {fill('default'):.0f} s, {fill('large'):.0f} s", flush=True)
            rows = grown()
        finally:
            drop_large()
        report("growth", [*rows, *backlog(), *at_once()])


# The databases


def add_large() -> None:
    """`large`, a copy of the empty test database, unless there is one of the last time."""
    small = connections["default"]
    name = f"{small.settings_dict['NAME']}_large"
    connections.databases["large"] = {**deepcopy(small.settings_dict), "NAME": name}
    with small._nodb_cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        is_there = cursor.fetchone()
    if is_there and Delivery.objects.using("large").filter(status="succeeded").count() != ROWS:
        drop_large(anyway=True)
        is_there = None
    if not is_there:
        template = small.settings_dict["NAME"]
        small.close()
        with small._nodb_cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')


def drop_large(anyway: bool = False) -> None:
    connections["large"].close()
    if anyway or not os.environ.get("KEEP"):
        with connections["default"]._nodb_cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{connections.databases["large"]["NAME"]}"')


def fill(using: str) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    if not Delivery.objects.using(using).exists():
        tables = Tables(using)
        endpoints = tables.subscribe(ENDPOINTS)
        with without_indexes(using):
            tables.settled(SIZES[using], endpoints)
    tidy(using)
    return time.perf_counter() - started


@contextmanager
def without_indexes(using: str) -> Iterator[None]:
    """But for primary keys; made again afterwards, which is much faster than row by row."""
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE contype IN ('f', 'u')"
            " AND conrelid::regclass::text LIKE 'django_webhooks_%%'"
        )
        constraints = cursor.fetchall()
        for table, name, _ in constraints:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE NOT indisprimary AND indrelid::regclass::text LIKE 'django_webhooks_%%'"
        )
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        yield
        cursor.execute("SET maintenance_work_mem = '512MB'")
        for _, definition in indexes:
            cursor.execute(definition)
        for table, name, definition in constraints:
            cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        cursor.execute("RESET maintenance_work_mem")


def tidy(using: str) -> None:
    """What autovacuum does in the background."""
    with connections[using].cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


# Per delivery


class Bench:
    """Each gives microseconds per delivery, and leaves the tables as they were."""

    def __init__(self) -> None:
        self.claimed: dict[str, list[Delivery]] = {}

    def fan_out(self, using: str) -> float:
        """Events that wait, each for `LISTENERS` of the subscriptions."""
        listeners = Subscription.objects.using(using).all()[:LISTENERS]
        rules = [Rule(subscription=each, event_type="shop.order.created") for each in listeners]
        Rule.objects.using(using).bulk_create(rules)
        made = Event.objects.using(using).bulk_create(
            Event(type="shop.order.created", action="created", data={"status": "paid"})
            for _ in range(EVENTS)
        )
        took = seconds(partial(_fan_out_all, using))
        new = Delivery.objects.using(using).filter(event__in=made)
        count = new.count()
        new._raw_delete(using)
        Event.objects.using(using).filter(pk__in=[each.pk for each in made])._raw_delete(using)
        Rule.objects.using(using).all()._raw_delete(using)
        assert count == EVENTS * LISTENERS, count
        return took / count * 1e6

    def claim(self, using: str) -> float:
        """Deliveries that are due, evenly among the subscriptions."""
        endpoints = list(Subscription.objects.using(using).order_by("pk")[:ENDPOINTS])
        now = timezone.now()
        made = Event.objects.using(using).bulk_create(
            Event(type="shop.order.created", body="{}", fanned_out_at=now) for _ in range(1000)
        )
        Delivery.objects.using(using).bulk_create(
            Delivery(
                event=event,
                subscription=endpoints[number % ENDPOINTS],
                next_attempt_at=now - timedelta(seconds=1),
            )
            for number, event in enumerate(made)
        )
        for each in endpoints:
            pace._earned[each.pk] = WANTED  # as for endpoints that have answered for a while
        claimer, self.claimed[using], took = Claimer(using, WANTED), [], 0.0
        while len(self.claimed[using]) < len(made):
            took += seconds(lambda: self.claimed[using].extend(claimer.claim(WANTED).deliveries))
        return took / len(made) * 1e6

    def settle(self, using: str) -> float:
        """What `claim()` has claimed."""
        claimed, took = self.claimed.pop(using), 0.0
        for start in range(0, len(claimed), WANTED):
            outcomes = [
                Outcome(each, EXCHANGE, timezone.now(), {"webhook-id": each.event_id}, "https://x/")
                for each in claimed[start : start + WANTED]
            ]
            took += seconds(partial(settle, using, outcomes))
        ids, events = [each.pk for each in claimed], [each.event_id for each in claimed]
        Attempt.objects.using(using).filter(delivery__in=ids)._raw_delete(using)
        rows = Delivery.objects.using(using).filter(pk__in=ids)
        assert rows.filter(status="succeeded", completed_at__lte=Now()).count() == len(ids)
        rows._raw_delete(using)
        Event.objects.using(using).filter(pk__in=events)._raw_delete(using)
        tidy(using)
        return took / len(claimed) * 1e6


def _fan_out_all(using: str) -> None:
    while fan_out(using):
        pass


def grown() -> list[Row]:
    bench = Bench()
    steps: dict[str, Callable[[str], float]] = {
        "fan-out": bench.fan_out,
        "claim": bench.claim,
        "settle": bench.settle,
    }
    found = take_turns(
        {
            f"{name}, {SIZES[using]:,} rows": partial(step, using)
            for name, step in steps.items()
            for using in SIZES
        }
    )
    rows = []
    for name in steps:
        few, many = found[f"{name}, {FEW:,} rows"], found[f"{name}, {ROWS:,} rows"]
        rows.append(
            Row(
                f"{name}, per delivery, with {ROWS:,} settled",
                spread(many, " µs"),
                f"with {FEW:,} {spread(few, ' µs')}",
                ratio(many, few),
                1.2,
                less=True,
            )
        )
    return rows


# A long queue


def backlog() -> list[Row]:
    """Claims before a short and before a long queue."""

    def claimed(due: int) -> float:
        empty()
        tables = Tables()
        endpoints = tables.subscribe(ENDPOINTS)
        tables.due(due, endpoints)
        tidy("default")
        for each in endpoints:
            pace._earned[each.pk] = WANTED
        claimer, counts = Claimer("default", WANTED), []
        took = seconds(lambda: counts.extend(_claims(claimer, CLAIMS)))
        return took / sum(counts) * 1e6

    found = take_turns(
        {f"claim, {due:,} due": partial(claimed, due) for due in (SHORT_QUEUE, LONG_QUEUE)}
    )
    short, long = found.values()
    return [
        Row(
            f"claim, per delivery, with {LONG_QUEUE:,} due",
            spread(long, " µs"),
            f"with {SHORT_QUEUE:,} {spread(short, ' µs')}",
            ratio(long, short),
            1.2,
            less=True,
        )
    ]


def _claims(claimer: Claimer, count: int) -> Iterator[int]:
    for _ in range(count):
        yield len(claimer.claim(WANTED).deliveries)


# Many at once


def at_once() -> list[Row]:
    gc.freeze()  # as `webhooks_drain` does
    gc.set_threshold(10_000)
    empty()
    per_second: dict[str, list[float]] = {}
    for kind in ("none", "different"):
        with subscriptions(AT_ONCE, TREES[kind]):
            tidy("default")
            if kind == "different":  # first, for what fan-out writes is still at work afterwards
                first, *matching = [matched() for _ in range(1 + MATCHINGS)]
            for _ in range(5):
                wait(1)
                took = seconds(partial(fan_out, "default"))
                made = Delivery.objects.filter(status=Delivery.Status.PENDING).count()
                assert made == AT_ONCE, made
                per_second.setdefault(kind, []).append(made / took)
    return [
        Row(
            f"fan-out of one event to {AT_ONCE:,} subscriptions, deliveries per second",
            spread(per_second["none"]),
            f"each with conditions of its own {spread(per_second['different'])}",
            median(per_second["none"]),
            AT_ONCE,
        ),
        Row(
            f"{AT_ONCE:,} rules with conditions, all different, on one event type: ms to match",
            spread(matching, " ms"),
            f"the first time, when they are read, {first:.0f} ms",
            median(matching),
            50,
            less=True,
        ),
    ]


def matched() -> float:
    """Milliseconds to find the rules that fire on one event."""
    [event] = wait(1)
    gc.collect()  # or what was left behind is collected while it matches
    return seconds(lambda: list(match([event], "default"))) * 1000


if __name__ == "__main__":
    main()
