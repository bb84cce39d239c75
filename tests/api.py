"""What the tests of the API share: who calls, and what is there to be found."""

from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from django_webhooks import outbox
from django_webhooks.models import Attempt, Delivery, Subscription

SUBSCRIPTIONS = "/webhooks/subscriptions/"
DELIVERIES = "/webhooks/deliveries/"
PREVIEW = "/webhooks/rules/preview/"
TYPES = "/webhooks/event-types/"
URL = "https://example.com/hook"
PAID = {"field": "status", "op": "eq", "value": "paid"}


def client_of(user: User) -> APIClient:
    client = APIClient()
    client.default_format = "json"  # and none of the project's
    client.force_authenticate(user)
    return client


def make(owner: User | None, **fields: Any) -> Subscription:
    subscription = Subscription.objects.create(owner=owner, **{"url": URL, **fields})
    subscription.rules.create(event_type="shop.order.*")
    return subscription


def deliver(subscription: Subscription, **fields: Any) -> Delivery:
    """A delivery that has ended, with two attempts."""
    event = outbox.compose(
        "shop.order.updated",
        {"id": 1, "status": "paid"},
        action="updated",
        previous={"status": "pending"},
        owner=subscription.owner,
    )
    event.save()
    delivery = Delivery.objects.create(
        event=event,
        subscription=subscription,
        **{"status": "succeeded", "attempt_count": 2, **fields},
    )
    common = {"delivery": delivery, "started_at": timezone.now(), "url": URL}
    Attempt.objects.create(
        number=1,
        status_code=503,
        error="status",
        response_body="BODY-CANARY",
        response_headers={"x": "HEADER-CANARY"},
        detail="DETAIL-CANARY",
        **common,
    )
    Attempt.objects.create(number=2, status_code=204, **common)
    return delivery


def at(subscription: Subscription, verb: str = "") -> str:
    return f"{SUBSCRIPTIONS}{subscription.pk}/{verb + '/' if verb else ''}"
