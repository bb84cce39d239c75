"""How endpoints do, and who is told of it."""

import threading
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.db import connection
from django.utils import timezone

from django_webhooks import signals
from django_webhooks.models import Delivery, Subscription
from django_webhooks.outbox import publish_test, redeliver
from django_webhooks.worker import drain
from tests.processes import Process, running, wait_until
from tests.shop.models import Customer, Order

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def heard():
    """The names of the signals about subscriptions, as they came."""
    found: list[str] = []
    receivers = {}
    for name in ("failing", "recovered", "disabled"):

        def listen(name=name, **kwargs):
            found.append(name)

        receivers[name] = listen
        getattr(signals, f"subscription_{name}").connect(listen)
    yield found
    for name, listen in receivers.items():
        getattr(signals, f"subscription_{name}").disconnect(listen)


@pytest.fixture
def owner():
    return User.objects.create(username="ada", email="ada@example.com")


def orders(count: int, owner: User) -> None:
    customer = Customer.objects.create(name="Ada", user=owner)
    for number in range(count):
        Order.objects.create(number=number, customer=customer)


def let_the_hold_pass() -> None:
    Subscription.objects.update(held_until=timezone.now())


def test_incident_is_announced_once_and_its_end_once(subscribe, receiver, heard, owner):
    receiver.answer = lambda request: 500
    subscribe("*", owner=owner)
    orders(8, owner)
    for _ in range(3):
        drain()
        let_the_hold_pass()
    assert heard == ["failing"]
    receiver.answer = lambda request: 200
    drain()
    drain()
    assert heard == ["failing", "recovered"]
    assert not Delivery.objects.filter(attempt_count=0).exists()


def test_a_few_failures_are_no_incident(configure, subscribe, receiver, heard, owner):
    configure(CONCURRENCY=1)  # for more at once come back in any order
    answers = iter([500, 500, 500, 200] * 10)
    receiver.answer = lambda request: next(answers)
    subscribe("*", owner=owner)
    orders(12, owner)
    drain()
    assert heard == []


def test_success_of_an_attempt_that_began_before_others_failed_ends_their_count(
    subscribe, receiver, owner
):
    begun = threading.Event()
    subscription = subscribe("*", owner=owner)
    orders(8, owner)
    drain()  # whoever does well is sent several at a time

    def are_the_others_settled() -> bool:
        subscription.refresh_from_db()
        return subscription.failure_count == 3

    def answer(request):
        if begun.is_set():
            return 500
        begun.set()
        try:
            return 200 if wait_until(are_the_others_settled, 10) else 500
        finally:
            connection.close()

    receiver.answer = answer
    orders(4, owner)
    drain()
    subscription.refresh_from_db()
    assert (subscription.failure_count, subscription.failing_since) == (0, None)
    assert Delivery.objects.filter(status="succeeded").count() == 9


def test_success_of_one_ends_the_count_of_another(subscribe, receiver, owner):
    receiver.answer = lambda request: 500
    subscription = subscribe("*", owner=owner)
    orders(3, owner)
    drain()
    subscription.refresh_from_db()
    assert subscription.failure_count == 3
    receiver.answer = lambda request: 200
    orders(1, owner)
    drain()
    subscription.refresh_from_db()
    assert (subscription.failure_count, subscription.failing_since) == (0, None)


def test_pause_that_came_meanwhile_is_not_overwritten(subscribe, receiver, settings, heard, owner):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "DISABLE_AFTER": 1}
    subscription = subscribe("*", owner=owner)
    long_ago = timezone.now() - timedelta(hours=1)
    Subscription.objects.update(failing_since=long_ago, failure_count=1)

    def answer(request):
        Subscription.objects.get(pk=subscription.pk).pause()
        return 500

    receiver.answer = answer
    orders(1, owner)
    drain()
    subscription.refresh_from_db()
    assert subscription.status == "paused"
    assert heard == []


def test_workers_side_by_side_announce_an_incident_once(subscribe, receiver, owner):
    receiver.answer = lambda request: 500
    subscription = subscribe("*", owner=owner)
    orders(60, owner)
    with running(*(Process("webhooks_drain", "--loop") for _ in range(3))) as loops:
        assert wait_until(lambda: Subscription.objects.get().held_until, 30)
        assert wait_until(lambda: not Delivery.objects.in_flight().exists(), 30)
        told = sum(each.output().count("keeps failing") for each in loops)
    assert told == 1
    subscription.refresh_from_db()
    assert subscription.failure_count == len(receiver.requests)


def test_pause_and_resume_reset_nothing(subscribe, receiver, owner):
    receiver.answer = lambda request: 500
    subscription = subscribe("*", owner=owner)
    orders(6, owner)
    drain()
    held = Subscription.objects.get().held_until
    subscription = Subscription.objects.get()
    subscription.pause()
    subscription.resume()
    found = Subscription.objects.get()
    assert found.is_open
    assert found.held_until == held
    subscription.disable("for a test")
    subscription.resume()
    assert not Subscription.objects.get().is_open


def test_person_who_redelivers_or_tests_need_not_wait_for_the_hold(subscribe, receiver, owner):
    receiver.answer = lambda request: (503, {"retry-after": "500"}, b"")
    subscription = subscribe("*", owner=owner)
    orders(1, owner)
    drain()
    assert drain().attempts == 0, "held back"
    assert redeliver(Delivery.objects.all()) == 1
    assert drain().attempts == 1
    publish_test(subscription)
    assert drain().attempts == 1


# E-mail


@pytest.fixture
def email(settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "EMAIL_OWNERS": True}


def subjects() -> list[str]:
    return [message.subject for message in mail.outbox]


def test_owner_is_told_by_e_mail_of_an_incident_and_its_end(subscribe, receiver, email, owner):
    receiver.answer = lambda request: 500
    subscribe("*", owner=owner, name="ERP & Co")
    orders(5, owner)
    drain()
    assert wait_until(lambda: len(mail.outbox) == 1, 5)
    receiver.answer = lambda request: 410
    let_the_hold_pass()
    orders(1, owner)
    drain()
    assert wait_until(lambda: len(mail.outbox) == 2, 5)
    assert subjects() == [
        "Your webhook “ERP & Co” is failing",
        "Your webhook “ERP & Co” is disabled",
    ]
    first, second = mail.outbox
    assert first.to == ["ada@example.com"]
    assert "has failed 5 times in a row" in first.body
    assert "410 Gone" in second.body


def test_nobody_is_written_to_unless_the_setting_asks(subscribe, receiver, owner):
    receiver.answer = lambda request: 500
    subscribe("*", owner=owner)
    orders(6, owner)
    drain()
    assert mail.outbox == []


def test_subscription_of_nobody_writes_to_nobody(subscribe, receiver, email, owner, heard):
    receiver.answer = lambda request: 500
    subscribe("*")
    orders(6, owner)
    drain()
    assert heard == ["failing"]
    assert mail.outbox == []


def test_mail_server_that_fails_harms_no_delivery(subscribe, receiver, email, owner, settings):
    settings.EMAIL_BACKEND = "no.such.Backend"
    receiver.answer = lambda request: 500
    subscribe("*", owner=owner)
    orders(6, owner)
    assert drain().retried == 5
