"""How fast fan-out is, on SQLite or DATABASE_URL: python -m tests.benchmarks.fan_out [COUNT]

One event meets COUNT subscriptions (10,000), then a hundred events meet 2,000; for each kind of
conditions the best of three, for other programs disturb. Makes and removes a test database.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.db import connection  # noqa: E402
from django.test.utils import setup_databases, teardown_databases  # noqa: E402

from django_webhooks.fanout import fan_out, match  # noqa: E402
from django_webhooks.models import Delivery, Event, Rule, Subscription  # noqa: E402

DATA = {"status": "paid", "total": "10.00"}
TREES: dict[str, Callable[[int], dict[str, Any]]] = {
    "none": lambda number: {},
    "equal": lambda number: tree("paid", 0),
    "different": lambda number: tree("paid", -number),
    "untrue": lambda number: tree("shipped", -number),
}


def tree(status: str, total: int) -> dict[str, Any]:
    status_is = {"field": "status", "op": "eq", "value": status}
    return {"all": [status_is, {"field": "total", "op": "gte", "value": total}]}


@contextmanager
def subscriptions(count: int, conditions: Callable[[int], Any]) -> Iterator[None]:
    made = [Subscription(url="https://example.com/", headers={"X": "x"}) for _ in range(count)]
    Subscription.objects.bulk_create(made, batch_size=1000)
    Rule.objects.bulk_create(
        [
            Rule(subscription=each, event_type="shop.order.created", conditions=conditions(number))
            for number, each in enumerate(made)
        ],
        batch_size=1000,
    )
    yield
    for model in (Delivery, Event, Rule, Subscription):
        model.objects.all()._raw_delete("default")


def wait(events: int) -> list[Event]:
    Delivery.objects.all()._raw_delete("default")
    Event.objects.all()._raw_delete("default")
    made = [Event(type="shop.order.created", action="created", data=DATA) for _ in range(events)]
    return Event.objects.bulk_create(made)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(count: int) -> None:
    for name, conditions in TREES.items():
        with subscriptions(count, conditions):
            runs = []
            for _ in range(3):
                event = wait(1)
                matching = seconds(lambda event=event: list(match(event, "default")))
                runs.append((seconds(lambda: fan_out("default")), matching))
            fanning, matching = min(runs)[0], min(run[1] for run in runs)
            print(
                f"{connection.vendor:10} conditions {name:9} 1 event, {count:,} subscriptions: "
                f"match {matching * 1000:4.0f} ms, fan-out {fanning:.2f} s, "
                f"{Delivery.objects.count() / fanning:,.0f} deliveries/s",
                flush=True,
            )
    with subscriptions(2000, TREES["equal"]):
        wait(100)
        runs = []
        while Event.objects.waiting().exists():
            runs.append(seconds(lambda: fan_out("default")))
        print(
            f"{connection.vendor:10} 100 events, 2,000 subscriptions: {sum(runs):.1f} s, "
            f"the longest transaction {max(runs):.2f} s"
        )


if __name__ == "__main__":
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
    finally:
        teardown_databases(databases, verbosity=0)
