"""Which Deliveries are next: due, fair, within limits, and taken by one worker alone."""

import itertools
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection
from django.utils import timezone

from django_webhooks import delivery, fanout, signals
from django_webhooks.claim import Claimer, Pace, pace
from django_webhooks.fanout import fan_out
from django_webhooks.models import Attempt, Delivery, Event, Subscription
from django_webhooks.worker import drain
from tests.processes import Process, running, wait_until
from tests.shop.models import Order

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

PLACES = 16


def order(**fields) -> Order:
    return Order.objects.create(**{"number": "1", **fields})


def claim(wanted=10, in_flight=()) -> list[Delivery]:
    return Claimer("default", PLACES).claim(wanted, in_flight).deliveries


def make_due(subscription: Subscription, count: int, age: float = 0) -> None:
    """Deliveries of that subscription that have been due for `age` seconds."""
    events = Event.objects.bulk_create(
        Event(type="shop.order.created", body="{}", fanned_out_at=timezone.now())
        for _ in range(count)
    )
    due = timezone.now() - timedelta(seconds=age)
    Delivery.objects.bulk_create(
        Delivery(event=event, subscription=subscription, next_attempt_at=due) for event in events
    )


def names(deliveries) -> list[str]:
    return [each.subscription.name for each in deliveries]


# Contention


@contextmanager
def contention_at(number: int):
    """The statement of this number, from 0, is told to come again, once."""
    count = itertools.count()

    def refuse(execute, sql, params, many, context):
        if next(count) == number:
            raise OperationalError("database is locked")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield count


@pytest.mark.parametrize("number", range(3))
def test_contention_within_a_claim_forgets_nothing_of_what_was_taken(subscribe, number):
    make_due(subscribe("*"), 1)
    Delivery.objects.update(lease_token=uuid4(), attempt_count=1)  # its worker was killed
    with contention_at(number) as count:
        (claimed,) = claim()
    assert next(count) > 4, "look, take and note, and one of them twice"
    assert Delivery.objects.get().lease_token == claimed.lease_token
    assert claimed.attempt_count == 2
    assert Attempt.objects.get().error == "abandoned"


# Leases


def test_expired_lease_is_taken_over_and_the_late_result_is_discarded(subscribe, receiver):
    subscribe("*")
    order()
    fan_out("default")
    (late,) = claim()
    assert claim() == [], "leased"
    Delivery.objects.update(next_attempt_at=timezone.now())  # the lease runs out
    (second,) = claim()
    transport = delivery.make_transport()
    outcome = delivery.send(delivery.pack(second), transport)
    assert delivery.settle("default", [outcome]).succeeded == 1
    receiver.answer = lambda request: 500
    outcome = delivery.send(delivery.pack(late), transport)
    assert delivery.settle("default", [outcome]).stale == 1
    transport.close()
    found = Delivery.objects.get()
    assert (found.status, found.attempt_count) == ("succeeded", 2)
    assert [(a.number, a.error, a.stale) for a in found.attempts.order_by("id")] == [
        (1, "abandoned", False),
        (2, "", False),
        (1, "status", True),
    ]


def test_late_worker_does_not_give_back_what_another_has_taken_over(subscribe):
    make_due(subscribe("*"), 1)
    (late,) = claim()
    Delivery.objects.update(next_attempt_at=timezone.now())  # the lease runs out
    (second,) = claim()
    assert Delivery.objects.filter(pk=late.pk).release([late.lease_token]) == 0
    assert Delivery.objects.get().lease_token == second.lease_token
    assert Delivery.objects.filter(pk=second.pk).release([second.lease_token]) == 1
    assert Delivery.objects.get().attempt_count == 1


def test_delivery_that_kills_its_worker_ends_as_failed(subscribe, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": [0]}
    heard = []

    def hear(**kwargs):
        heard.append(kwargs["delivery"].status)

    signals.delivery_failed.connect(hear)
    make_due(subscribe("*"), 1)
    for _ in range(2):
        assert len(claim()) == 1
        Delivery.objects.update(next_attempt_at=timezone.now())  # dead; the lease runs out
    assert claim() == []
    signals.delivery_failed.disconnect(hear)
    found = Delivery.objects.get()
    assert (found.status, found.attempt_count) == ("failed", 2)
    assert "never reported back" in found.reason
    assert heard == ["failed"]
    assert Attempt.objects.filter(error="abandoned").count() == 2


# Fairness


def test_subscription_earns_its_share_and_loses_it():
    mine, key = Pace(), uuid4()
    assert mine.of(key, PLACES) == 1
    for earned in (2, 4, 8, 12, 12):
        mine.note(key, "", PLACES)
        assert mine.of(key, PLACES) == earned, "never all the places"
    mine.note(key, "status", PLACES)
    assert mine.of(key, PLACES) == 8
    mine.note(key, "timeout", PLACES)
    assert mine.of(key, PLACES) == 1
    assert mine.of(key, 1) == 1


def test_long_queue_does_not_hide_the_others(subscribe):
    make_due(subscribe("*", name="flood"), 300, age=100)
    for name in "abc":
        make_due(subscribe("*", name=name), 2)
    assert sorted(names(claim(4))) == ["a", "b", "c", "flood"]


def test_many_hidden_behind_a_long_queue_come_in_turn(subscribe):
    make_due(subscribe("*", name="flood"), 300, age=100)
    quiet = [str(number) for number in range(12)]
    for name in quiet:
        make_due(subscribe("*", name=name), 1)
    claimer, seen = Claimer("default", PLACES), []
    for _ in range(20):
        found = claimer.claim(1).deliveries
        seen += names(found)
        Delivery.objects.filter(pk__in=[each.pk for each in found]).delete()
    assert set(quiet) <= set(seen)


def test_who_has_the_fewest_in_flight_comes_first(subscribe):
    busy = subscribe("*", name="busy")
    for _ in range(5):
        pace.note(busy.pk, "", PLACES)
    make_due(busy, 20, age=100)
    flying = claim(8)
    assert names(flying) == ["busy"] * 8
    make_due(subscribe("*", name="new"), 1)
    assert names(claim(1, flying)) == ["new"]


def test_those_that_fail_have_at_most_half_of_the_places(subscribe):
    for _number in range(20):
        make_due(subscribe("*", name="fails"), 3, age=100)
        make_due(subscribe("*", name="well"), 1)
    Subscription.objects.filter(name="fails").update(failure_count=1)
    flying = claim(PLACES)
    assert sorted(names(flying)) == ["fails"] * 8 + ["well"] * 8
    assert set(names(claim(PLACES, flying))) == {"well"}


def test_healthy_endpoints_are_served_while_others_hang(subscribe, receiver):
    """8 of 9 hang until the time-out, each with a queue in front of the one that is well."""
    receiver.answer = lambda request: time.sleep(1.2) or 200 if "hang" in request.path else 200
    for number in range(8):
        hanging = subscribe("*", url=f"{receiver.url}/hang/{number}", timeout=1)
        make_due(hanging, 10, age=100)
    make_due(subscribe("*", url=f"{receiver.url}/well"), 30)
    drain(max_seconds=2)
    assert sum(request.path == "/hook/well" for request in receiver.requests) == 30


def test_backlog_of_a_limited_subscription_holds_up_no_other(subscribe, receiver):
    limited = subscribe("*", url=f"{receiver.url}/limited", max_per_second=5)
    make_due(limited, 100, age=100)
    make_due(subscribe("*", url=f"{receiver.url}/free"), 40)
    drain(max_seconds=3)
    paths = [request.path for request in receiver.requests]
    assert paths.count("/hook/free") == 40
    assert 12 <= paths.count("/hook/limited") <= 18


def test_an_endpoint_that_begins_to_hang_holds_up_no_other(subscribe, receiver, configure):
    """It had earned three quarters of the places; the others are free, and are used."""
    configure(CONCURRENCY=16, TIMEOUT=5)
    over = threading.Event()
    hangs = subscribe("*", url=f"{receiver.url}/hangs")
    make_due(hangs, 60, age=100)
    drain()
    receiver.answer = lambda request: over.wait(4) and 204 if "hangs" in request.path else 204
    make_due(hangs, 40, age=100)
    make_due(subscribe("*", url=f"{receiver.url}/well"), 10, age=-0.5)  # once all of it hang
    timer = threading.Timer(3, over.set)
    timer.start()
    began = time.monotonic()
    drain(max_seconds=2)
    timer.join()
    arrived = [request.at - began for request in receiver.requests if "well" in request.path]
    assert len(arrived) == 10
    assert max(arrived) < 1.5


@pytest.mark.parametrize(("rate", "sent"), [(1e-300, 1), (1e-12, 1), (1e12, 3), (1e300, 3)])
def test_rate_that_no_form_takes_breaks_nothing(subscribe, receiver, rate, sent):
    odd = subscribe("*", url=f"{receiver.url}/odd")
    Subscription.objects.filter(pk=odd.pk).update(max_per_second=rate)
    make_due(odd, 3, age=100)
    make_due(subscribe("*", url=f"{receiver.url}/free"), 3)
    drain()
    drain()
    paths = [request.path for request in receiver.requests]
    assert (paths.count("/hook/odd"), paths.count("/hook/free")) == (sent, 3)


@pytest.mark.parametrize("rate", [1e-12, 0, -1, 1000.5, 1e12, float("inf"), float("nan")])
def test_rate_that_cannot_be_kept_is_refused(subscribe, rate):
    with pytest.raises(ValidationError, match=r"from 0\.001 to 1000"):
        subscribe("*", max_per_second=rate)


# What has not begun


@pytest.mark.parametrize("change", ["delete", "pause"])
def test_subscription_that_was_changed_meanwhile_is_not_called(
    subscribe, receiver, settings, change
):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "CONCURRENCY": 1}
    subscription = subscribe("*")

    def answer(request):
        getattr(Subscription.objects.get(pk=subscription.pk), change)()
        connection.close()  # this thread's
        return 200

    receiver.answer = answer
    make_due(subscription, 3)
    drain()
    assert len(receiver.requests) == 1


def test_drain_that_is_out_of_time_gives_back_what_it_has_not_begun(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "CONCURRENCY": 2}
    receiver.answer = lambda request: time.sleep(0.8) or 200
    for number in range(10):
        make_due(subscribe("*", name=str(number)), 1)
    started = time.monotonic()
    drain(max_seconds=0.2)
    assert time.monotonic() - started < 1.5
    assert len(receiver.requests) == 2
    assert not Delivery.objects.filter(lease_token__isnull=False).exists()
    assert sorted(Delivery.objects.values_list("attempt_count", flat=True)) == [0] * 8 + [1] * 2


# In order


def numbers(receiver) -> dict[str, list[str]]:
    """For each order that was told of, its statuses as they arrived."""
    found: dict[str, list[str]] = {}
    for request in receiver.requests:
        data = json.loads(request.body)["data"]["object"]
        found.setdefault(data["number"], []).append(data["status"])
    return found


def change(count: int) -> None:
    """Three orders, each changed so often, by turns."""
    orders = [order(number=number, status="0") for number in "abc"]
    for status in range(1, count):
        for each in orders:
            each.status = str(status)
            each.save()


def test_events_of_an_object_arrive_in_order_one_at_a_time(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": [0.05] * 9}
    flying, most, lock = Counter(), Counter(), threading.Lock()

    def answer(request):
        number = json.loads(request.body)["data"]["object"]["number"]
        with lock:
            flying[number] += 1
            most[number] = max(most[number], flying[number])
            most["all"] = max(most["all"], sum(flying.values()))
        time.sleep(0.02)
        with lock:
            flying[number] -= 1
        return 500 if len(receiver.requests) % 4 == 0 else 200

    receiver.answer = answer
    subscribe("shop.order.*", ordered=True)
    change(8)
    assert wait_until(lambda: not drain() and not Delivery.objects.pending().exists(), 20)
    succeeded = {number: list(dict.fromkeys(seen)) for number, seen in numbers(receiver).items()}
    assert succeeded == {number: [str(each) for each in range(8)] for number in "abc"}
    assert [most[number] for number in "abc"] == [1, 1, 1]
    assert most["all"] > 1, "different objects do not wait for each other"


def test_head_that_is_given_up_lets_the_next_pass(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": [0]}
    receiver.answer = lambda request: 500 if b'"status":"0","total"' in request.body else 200
    subscribe("shop.order.*", ordered=True)
    change(3)
    for _ in range(3):
        drain()
    assert numbers(receiver)["a"] == ["0", "0", "1", "2"]
    assert set(Delivery.objects.values_list("status", "order_key")) == {
        ("failed", ""),
        ("succeeded", ""),
    }


def test_head_that_waits_for_its_retry_is_not_overtaken(subscribe, receiver):
    receiver.answer = lambda request: 500 if b'"status":"0","total"' in request.body else 200
    subscribe("shop.order.*", ordered=True)
    change(3)
    drain()
    assert numbers(receiver) == {"a": ["0"], "b": ["0"], "c": ["0"]}
    assert not Delivery.objects.due().exists(), "what waits for its turn is not late"


def test_event_whose_predecessor_another_worker_fans_out_waits_for_it(subscribe):
    subscribe("shop.order.*", ordered=True)
    change(2)
    first = Event.objects.earliest("id")
    same = Event.objects.filter(subject_id=first.subject_id).latest("id")
    kinds = fanout.kinds_of([first.type, same.type])
    # As if the first were locked by another worker: this one has got only what came later.
    assert fanout._fan_out([same.pk], kinds, "default") == 0
    assert fanout._fan_out([first.pk, same.pk], kinds, "default") == 2


def test_workers_side_by_side_keep_the_order(subscribe, receiver):
    subscribe("shop.order.*", ordered=True)
    workers = [Process("webhooks_drain", "--loop") for _ in range(3)]
    with running(*workers):
        change(20)
        assert wait_until(lambda: not Event.objects.waiting().exists(), 30)
        assert wait_until(lambda: not Delivery.objects.pending().exists(), 30)
    assert numbers(receiver) == {number: [str(each) for each in range(20)] for number in "abc"}
