"""How fair the worker is, on SQLite or DATABASE_URL: python -m tests.benchmarks.fairness

* 50 endpoints of which 5 hang until the time-out: how much longer the other 45 take than without.
* One endpoint with 100,000 due in front of another with one: how long that one waits.
* `max_per_second` over 10 seconds with two worker processes: how far off it is.

Each a ratio within one run; the best of three. Makes and removes a test database.
"""

import os
import time
from datetime import timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.db import connection  # noqa: E402
from django.test.utils import setup_databases, teardown_databases  # noqa: E402
from django.utils import timezone  # noqa: E402

from django_webhooks.models import Delivery, Event, Subscription  # noqa: E402
from django_webhooks.worker import drain  # noqa: E402
from tests.processes import Process, running  # noqa: E402
from tests.receiver import Received, Receiver  # noqa: E402

HANGING, ENDPOINTS, EACH = 5, 50, 20
HANG = 5.0  # seconds; the time-out of those that hang


def make_due(subscription: Subscription, count: int, *, age: float = 0) -> None:
    due = timezone.now() - timedelta(seconds=age)
    for start in range(0, count, 5000):
        events = Event.objects.bulk_create(
            Event(type="shop.order.created", body="{}", fanned_out_at=due)
            for _ in range(min(5000, count - start))
        )
        Delivery.objects.bulk_create(
            Delivery(event=event, subscription=subscription, next_attempt_at=due)
            for event in events
        )


def forget() -> None:
    for model in (Delivery, Event, Subscription):
        model.objects.all().delete()


def seconds_until_served(receiver: Receiver, wanted: int) -> float:
    """From the start of a loop until the endpoints that are well have got all of theirs."""
    started = time.monotonic()
    with running(Process("webhooks_drain", "--loop")):
        while sum("hang" not in each.path for each in receiver.requests) < wanted:
            time.sleep(0.01)
            if time.monotonic() - started > 60:
                raise SystemExit("They were not served within a minute.")
        first = min(each.at for each in receiver.requests)
        return max(each.at for each in receiver.requests if "hang" not in each.path) - first


def answer(request: Received) -> int:
    if "hang" in request.path:
        time.sleep(HANG + 1)
    return 200


def hanging_endpoints(hanging: int) -> float:
    with Receiver(
        lambda request: time.sleep(HANG + 1) or 200 if "hang" in request.path else 200
    ) as receiver:
        for number in range(ENDPOINTS):
            if number < HANGING:
                if hanging:
                    url = f"{receiver.url}/hang/{number}"
                    make_due(Subscription.objects.create(url=url, timeout=HANG), EACH, age=60)
            else:
                make_due(Subscription.objects.create(url=f"{receiver.url}/{number}"), EACH)
        took = seconds_until_served(receiver, (ENDPOINTS - HANGING) * EACH)
    forget()
    return took


def hang() -> None:
    runs = [(hanging_endpoints(0), hanging_endpoints(HANGING)) for _ in range(3)]
    without, beside = min(run[0] for run in runs), min(run[1] for run in runs)
    print(
        f"{connection.vendor:10} {HANGING} of {ENDPOINTS} endpoints hang: the others take "
        f"{beside:.2f} s, without them {without:.2f} s: {beside / without:.2f} times",
        flush=True,
    )


def long_queue(count: int = 100_000) -> None:
    with Receiver() as receiver:
        make_due(Subscription.objects.create(url=f"{receiver.url}/flood"), count, age=60)
        make_due(Subscription.objects.create(url=f"{receiver.url}/one"), 1)
        started = time.monotonic()
        drain(max_seconds=5)
        served = [each.at for each in receiver.requests if each.path.endswith("/one")]
    waited = f"{served[0] - started:.2f} s" if served else "for longer than 5 s"
    print(
        f"{connection.vendor:10} one delivery behind {count:,} of another: it waited {waited}; "
        f"{len(receiver.requests)} requests in that drain of 5 s",
        flush=True,
    )
    forget()


def rate(per_second: float, seconds: float = 10) -> None:
    with Receiver() as receiver:
        subscription = Subscription.objects.create(url=receiver.url, max_per_second=per_second)
        make_due(subscription, int(per_second * seconds * 2))
        with running(*(Process("webhooks_drain", "--loop") for _ in range(2))):
            while not receiver.requests:
                time.sleep(0.01)
            time.sleep(seconds + 0.5)
    first = receiver.requests[0].at
    sent = sum(each.at - first < seconds for each in receiver.requests)
    print(
        f"{connection.vendor:10} {per_second:g} per second, 2 processes: {sent} in {seconds:g} s, "
        f"{sent / per_second / seconds:.3f} times the rate",
        flush=True,
    )
    forget()


if __name__ == "__main__":
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        hang()
        long_queue()
        for per_second in (2, 20, 100):
            rate(per_second)
    finally:
        teardown_databases(databases, verbosity=0)
