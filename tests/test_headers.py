"""A custom header is checked at each place where it could come in, and again where it goes out."""

import json

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from rest_framework.test import APIClient

from django_webhooks.models import Attempt, Subscription
from django_webhooks.worker import drain
from tests.shop.models import Order

pytestmark = pytest.mark.django_db(transaction=True)

# RELIABILITY 4.8, each with the case that someone would try.
FORBIDDEN = """
Host Content-Length Content-Type Content-Encoding Transfer-Encoding Connection Keep-Alive TE
Trailer Upgrade Expect Cookie Forwarded X-Real-IP Via Accept-Encoding User-Agent
Proxy-Authorization Proxy-Connection Sec-Fetch-Mode Sec-WebSocket-Key X-Forwarded-For
X-Forwarded-Host webhook-id webhook-timestamp webhook-signature
hOST content-length TRANSFER-ENCODING te WEBHOOK-Signature x-forwarded-proto
"""

NOT_A_HEADER = [
    {"X A": "v"},
    {"X_A": "v"},
    {"X-A:": "v"},
    {"X-A\r\nHost": "evil.example"},
    {"": "v"},
    {"é": "v"},
    {"x" * 65: "v"},
    {"X-A": "a\r\nHost: evil.example"},
    {"X-A": "a\0"},
    {"X-A": " a"},
    {"X-A": "é"},
    {"X-A": "a" * 1025},
    {"X-A": 1},
    {"X-A": "1", "x-a": "2"},
    {f"X-{number}": "v" for number in range(21)},
]

each_refused = pytest.mark.parametrize(
    "headers",
    [*({name: "v"} for name in FORBIDDEN.split()), *NOT_A_HEADER],
    ids=lambda each: str(each)[:30],
)


@each_refused
def test_refused_when_a_subscription_is_validated(headers):
    with pytest.raises(ValidationError) as caught:
        Subscription(url="https://example.com/", headers=headers).full_clean()
    assert list(caught.value.message_dict) == ["headers"]


@each_refused
@pytest.mark.parametrize("verb", ["post", "patch"])
def test_refused_by_the_api(headers, verb):
    owner = User.objects.create_user("owner")
    client = APIClient()
    client.force_authenticate(owner)
    path, body = "/webhooks/subscriptions/", {"url": "https://example.com/", "headers": headers}
    if verb == "patch":
        kept = Subscription.objects.create(owner=owner, url="https://example.com/")
        path += f"{kept.pk}/"
    answer = getattr(client, verb)(path, body, format="json")
    assert (answer.status_code, list(answer.data)) == (400, ["headers"])
    assert not any(each.headers for each in Subscription.objects.all())


@each_refused
def test_refused_at_the_send_of_a_row_that_nobody_validated(subscribe, receiver, headers):
    subscription = subscribe("shop.order.created")
    Subscription.objects.filter(pk=subscription.pk).update(headers=headers)
    Order.objects.create(number="1")
    drain()
    attempt = Attempt.objects.get()
    assert attempt.error == "headers"
    assert receiver.requests == []
    assert "evil.example" not in json.dumps([attempt.detail, attempt.request_headers])
