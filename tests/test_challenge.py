"""`VERIFY_ENDPOINTS`: a URL is sent nothing but a challenge until it has answered."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from django_webhooks import delivery, outbox
from django_webhooks.claim import Claimer
from django_webhooks.fanout import fan_out
from django_webhooks.models import UNANSWERED, Delivery, Event, Subscription
from django_webhooks.worker import drain
from tests.api import SUBSCRIPTIONS, at, make
from tests.receiver import Answer, Received, Receiver
from tests.shop.models import Customer, Order

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("unlimited", "verifying"),
]

RULES = [{"event_type": "shop.order.*"}]


@pytest.fixture
def verifying(configure: Callable[..., None], unlimited: None) -> None:
    configure(VERIFY_ENDPOINTS=True)


def token_of(request: Received) -> str:
    return str(json.loads(request.body)["data"].get("challenge", ""))


def obedient(request: Received) -> Answer:
    return 200, {}, json.dumps({"challenge": token_of(request)}).encode()


def plain(request: Received) -> Answer:
    return 200, {}, token_of(request).encode() + b"\n"


def create(api: APIClient, receiver: Receiver, **fields: Any) -> tuple[Subscription, str]:
    answer = api.post(SUBSCRIPTIONS, {"url": receiver.url, "rules": RULES, **fields})
    assert answer.status_code == 201
    return Subscription.objects.get(pk=answer.data["id"]), answer.data["secret"]


def place_order(user: User) -> Order:
    customer, _ = Customer.objects.get_or_create(name=user.username, user=user)
    order: Order = Order.objects.create(number="1", customer=customer)
    return order


@pytest.mark.parametrize("answer", [obedient, plain])
def test_an_endpoint_that_answers_becomes_active(
    api: APIClient, me: User, receiver: Receiver, answer: Any
) -> None:
    receiver.answer = answer
    mine, secret = create(api, receiver)
    shown = api.get(at(mine)).data
    assert shown["status"] == "disabled"
    assert shown["disabled_reason"] == UNANSWERED
    drain()
    [request] = receiver.requests
    assert request.verify(secret).type == "webhooks.challenge"
    shown = api.get(at(mine)).data
    assert (shown["status"], shown["disabled_reason"]) == ("active", "")
    place_order(me)
    drain()
    assert receiver.requests[-1].verify(secret).type == "shop.order.created"


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: 204,
        lambda request: (200, {}, b"ok"),
        lambda request: (200, {}, b"{}"),
        lambda request: (200, {}, request.body),  # echoes whatever it gets
        lambda request: (200, {}, json.dumps({"challenge": "other"}).encode()),
        lambda request: (200, {}, b"[" * 50_000),
        lambda request: (500, {}, token_of(request).encode()),
        lambda request: (302, {"location": "/"}, token_of(request).encode()),
    ],
    ids=["204", "ok", "empty", "echo", "other", "deep", "500", "302"],
)
def test_an_endpoint_that_does_not_answer_is_sent_nothing_else(
    api: APIClient, me: User, receiver: Receiver, answer: Any
) -> None:
    receiver.answer = answer
    mine, _ = create(api, receiver)
    api.post(at(mine, "test"))
    place_order(me)
    drain()
    drain()
    assert [json.loads(each.body)["type"] for each in receiver.requests] == ["webhooks.challenge"]
    assert api.get(at(mine)).data["status"] == "disabled"
    attempt = Delivery.objects.get(event__type="webhooks.challenge").attempts.get()
    assert attempt.error in ("challenge", "status", "redirect")
    assert not Event.objects.filter(type="shop.order.created").exists()


def test_a_challenge_is_retried_by_the_schedule(
    api: APIClient, receiver: Receiver, configure: Callable[..., None]
) -> None:
    configure(RETRY_SCHEDULE=[0])
    answers = iter([lambda request: 503, obedient])
    receiver.answer = lambda request: next(answers)(request)
    mine, _ = create(api, receiver)
    drain()
    drain()
    assert len(receiver.requests) == 2
    assert api.get(at(mine)).data["status"] == "active"


def test_another_challenge_can_be_asked_for(api: APIClient, receiver: Receiver) -> None:
    mine, _ = create(api, receiver)
    assert api.post(at(mine, "verify")).status_code == 202
    receiver.answer = obedient
    drain()
    assert len(receiver.requests) == 1  # the one before was cancelled
    assert api.get(at(mine)).data["status"] == "active"
    assert api.post(at(mine, "verify")).status_code == 409


def test_resume_is_no_way_around_the_challenge(api: APIClient, receiver: Receiver) -> None:
    mine, _ = create(api, receiver)
    for verb in ("resume", "pause"):
        assert api.post(at(mine, verb)).status_code == 409
    assert api.patch(at(mine), {"status": "active"}).data["status"] == "disabled"


def test_a_changed_url_is_asked_anew(api: APIClient, me: User, receiver: Receiver) -> None:
    mine = make(me, url="https://example.com/hook")
    waiting = outbox.publish_test(mine)
    assert api.patch(at(mine), {"name": "same url"}).data["status"] == "active"
    assert api.patch(at(mine), {"url": receiver.url}).data["status"] == "disabled"
    drain()
    assert [json.loads(each.body)["type"] for each in receiver.requests] == ["webhooks.challenge"]
    receiver.answer = obedient
    api.post(at(mine, "verify"))
    drain()
    waiting.refresh_from_db()
    assert waiting.status == "succeeded"


def test_a_completed_one_time_subscription_is_not_revived_by_a_challenge(
    api: APIClient, me: User, receiver: Receiver
) -> None:
    receiver.answer = obedient
    mine, _ = create(api, receiver, mode="one_time")
    drain()
    place_order(me)
    drain()
    assert api.get(at(mine)).data["status"] == "completed"
    api.patch(at(mine), {"url": receiver.url + "/moved"})
    drain()
    assert api.get(at(mine)).data["status"] == "completed"


def test_an_answer_to_an_older_challenge_opens_nothing(api: APIClient, receiver: Receiver) -> None:
    receiver.answer = obedient
    mine, _ = create(api, receiver)
    first = Delivery.objects.get()
    api.post(at(mine, "verify"))
    outbox.redeliver([first])
    Delivery.objects.exclude(pk=first.pk).cancel("for the test")
    drain()
    assert receiver.requests == []
    mine.refresh_from_db()
    assert mine.verify(first.event) is False


def test_what_staff_have_disabled_is_not_opened_by_an_answer(
    api: APIClient, receiver: Receiver
) -> None:
    mine, _ = create(api, receiver)

    def answer(request: Received) -> Answer:
        mine.disable("Abuse.")  # while it is being asked
        return obedient(request)

    receiver.answer = answer
    drain()
    shown = api.get(at(mine)).data
    assert (shown["status"], shown["disabled_reason"]) == ("disabled", "Abuse.")


def test_a_url_that_changes_while_a_worker_claims_is_sent_nothing_else(
    api: APIClient, me: User, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.answer = obedient
    mine, _ = create(api, receiver)
    drain()
    place_order(me)
    fan_out("default")
    load = Claimer._load

    def changed_first(claimer: Claimer, leased: Any, token: Any) -> list[Delivery]:
        monkeypatch.setattr(Claimer, "_load", load)
        api.patch(at(mine), {"url": receiver.url + "other"})
        return load(claimer, leased, token)

    monkeypatch.setattr(Claimer, "_load", changed_first)
    receiver.answer = lambda request: 500
    drain()
    types = [json.loads(each.body)["type"] for each in receiver.requests]
    assert types == ["webhooks.challenge"] * 2
    waiting = Delivery.objects.get(event__type="shop.order.created")
    assert (waiting.status, waiting.lease_token, waiting.attempt_count) == ("pending", None, 0)


@pytest.mark.parametrize("lock", [True, False], ids=["staff", "challenge"])
def test_a_late_410_opens_nothing_that_was_shut_meanwhile(
    me: User, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, lock: bool
) -> None:
    mine = make(me, url=receiver.url)
    outbox.publish_test(mine)
    receiver.answer = lambda request: 410
    disable = Subscription.disable

    def shut_first(subscription: Subscription, *args: Any, **kwargs: Any) -> bool:
        monkeypatch.setattr(Subscription, "disable", disable)
        other = Subscription.objects.get()
        if lock:
            other.disable("Too many complaints.", lock=True)
        else:
            outbox.publish_challenge(other)
        return disable(subscription, *args, **kwargs)

    monkeypatch.setattr(Subscription, "disable", shut_first)
    drain()
    mine.refresh_from_db()
    assert (mine.locked, bool(mine.challenge)) == (lock, not lock)


def test_staff_and_code_are_trusted(receiver: Receiver, me: User) -> None:
    mine = Subscription.objects.create(url=receiver.url, owner=me)
    assert mine.status == "active"
    outbox.publish_challenge(mine)
    assert mine.status == "disabled"
    assert mine.resume()
    assert (mine.status, mine.challenge) == ("active", "")


def test_without_the_setting_no_endpoint_is_asked(
    api: APIClient, receiver: Receiver, configure: Callable[..., None]
) -> None:
    configure(VERIFY_ENDPOINTS=False)
    mine, _ = create(api, receiver)
    assert mine.status == "active"
    assert api.patch(at(mine), {"url": receiver.url + "/new"}).data["status"] == "active"
    assert not Delivery.objects.exists()


@pytest.mark.parametrize(
    ("body", "is_answer"),
    [
        ("t", True),
        (" t\n", True),
        ('"t"', True),
        ('{"challenge": "t"}', True),
        ('{"challenge": "t", "more": 1}', False),
        ("tt", False),
        ("", False),
        ("[]", False),
        ('["t"]', False),
        ("null", False),
    ],
)
def test_an_answer_is_the_challenge_and_nothing_else(body: str, is_answer: bool) -> None:
    assert delivery.answers(body, "t") is is_answer
