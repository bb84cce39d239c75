"""What would have been sent, without sending.

def test_paying_tells_the_warehouse():
    with capture_webhooks() as sent:
        order.pay()
    assert [webhook.type for webhook in sent] == ["shop.order.updated"]
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.test.testcases import DatabaseOperationForbidden  # type: ignore[attr-defined]
from django.test.utils import override_settings
from django.utils import timezone

from django_webhooks import conf, delivery
from django_webhooks.fanout import match
from django_webhooks.models import Delivery, Event, Subscription, outbox_aliases


@dataclass(frozen=True)
class CapturedWebhook:
    """One request that would have been sent."""

    subscription: Subscription
    event: Event
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        return self.event.type

    @property
    def data(self) -> Any:
        """The `data` of the body, as the receiver reads it."""
        return json.loads(self.body)["data"]


@contextmanager
def capture_webhooks() -> Iterator[list[CapturedWebhook]]:
    """A list, filled at the end of the block with what the events of the block would have sent.

    Works in Django's TestCase as in TransactionTestCase: it needs no commit, wakes no worker and
    makes no request. What was rolled back in the block is not in the list. Events and rules are
    those of the database, so make a subscription first.
    """
    sent: list[CapturedWebhook] = []
    before = {using: _ids(using) for using in outbox_aliases() if _may_be_asked(using)}
    quiet = {**conf.settings.given, "TASK_BACKEND": "django_webhooks.backends.dummy.DummyBackend"}
    with override_settings(**{conf.NAME: quiet}):
        yield sent
    for using, known in before.items():
        waiting = Event.objects.using(using).waiting().exclude(pk__in=known)
        new = list(waiting.filter(error="").order_by("occurred_at", "id"))
        sent.extend(_capture(new, using))
        # They count as sent: a drain that comes later in this test does not send them as well.
        waiting.filter(pk__in=[event.pk for event in new]).update(fanned_out_at=timezone.now())


def _may_be_asked(using: str) -> bool:
    """Whether this test's `databases` admit the alias: Django's TestCase forbids the others."""
    try:
        connections[using].ensure_connection()
        with connections[using].cursor():
            return True
    except DatabaseOperationForbidden:
        return False


def _ids(using: str) -> list[str]:
    return list(Event.objects.using(using).waiting().values_list("pk", flat=True))


def _capture(events: list[Event], using: str) -> Iterator[CapturedWebhook]:
    completed = set()
    matches = list(match(events, using))
    ids = {rule.subscription_id for _event, rule in matches}
    subscriptions = Subscription.objects.using(using).in_bulk(ids)
    for event, rule in matches:
        subscription = subscriptions[rule.subscription_id]
        if subscription.pk in completed:
            continue
        if subscription.mode == Subscription.Mode.ONE_TIME:
            completed.add(subscription.pk)
        parcel = delivery.pack(Delivery(event=event, subscription=subscription))
        timestamp = int(event.occurred_at.timestamp())
        headers = {**parcel.headers, **delivery.standard_headers(parcel, timestamp)}
        yield CapturedWebhook(subscription, event, parcel.url, headers, parcel.body)
