"""What we ship for the tests of projects works in each kind of test."""

import pytest
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from django_webhooks.models import Event, Subscription
from django_webhooks.outbox import publish
from django_webhooks.testing import capture_webhooks
from django_webhooks.worker import drain
from tests.receiver import Receiver
from tests.settings import DJANGO_WEBHOOKS
from tests.shop.models import Order

IMMEDIATE = {
    **DJANGO_WEBHOOKS,
    "TASK_BACKEND": "django_webhooks.backends.immediate.ImmediateBackend",
}
PAID = {"field": "status", "op": "changed_to", "value": "paid"}


def subscribe(event_type="shop.order.*", conditions=None, **fields) -> Subscription:
    subscription = Subscription.objects.create(**{"url": "https://example.com/hook", **fields})
    subscription.rules.create(event_type=event_type, conditions=conditions or {})
    return subscription


class Captured:
    """The same in both kinds of test case."""

    def test_list_holds_what_would_be_sent(self):
        subscription = subscribe("shop.order.updated", PAID, headers={"X-Shop": "tea"})
        with capture_webhooks() as sent:
            order = Order.objects.create(number="1")
            order.status = "paid"
            order.save()
        [webhook] = sent
        assert (webhook.subscription, webhook.url) == (subscription, "https://example.com/hook")
        assert webhook.type == "shop.order.updated"
        assert webhook.data["previous"] == {"status": "pending"}
        assert webhook.headers["webhook-id"] == webhook.event.id
        assert webhook.headers["X-Shop"] == "tea"

    def test_what_was_rolled_back_is_not_in_it(self):
        subscribe()
        with capture_webhooks() as sent:
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                Order.objects.create(number="1")
                raise ZeroDivisionError
            Order.objects.create(number="2")
        assert [webhook.data["object"]["number"] for webhook in sent] == ["2"]

    def test_one_time_is_in_it_once(self):
        subscribe(mode="one_time")
        with capture_webhooks() as sent:
            Order.objects.create(number="1")
            Order.objects.create(number="2")
        assert len(sent) == 1

    def test_what_came_before_is_not_in_it(self):
        subscribe()
        Order.objects.create(number="1")
        with capture_webhooks() as sent:
            publish("billing.invoice_paid", {})
        assert sent == []


class CapturedInTestCase(Captured, TestCase):
    pass


class CapturedInTransactionTestCase(Captured, TransactionTestCase):
    databases = {"default", "other"}

    def test_what_was_captured_is_not_sent_by_a_later_drain(self):
        with Receiver() as receiver:
            subscribe(url=receiver.url)
            with override_settings(DJANGO_WEBHOOKS=IMMEDIATE):
                with capture_webhooks() as sent:
                    Order.objects.create(number="captured")
                Order.objects.create(number="sent")
        assert len(sent) == 1
        assert [b'"sent"' in request.body for request in receiver.requests] == [True]


@override_settings(DJANGO_WEBHOOKS=IMMEDIATE)
class CallbacksOfCommit(TestCase):
    """Django's own way to see in a TestCase what happens on commit."""

    def setUp(self):
        self.receiver = self.enterContext(Receiver())
        subscribe(url=self.receiver.url)
        Order.objects.create(number="in setUp")

    def test_each_block_delivers(self):
        assert self.receiver.requests == []
        for count in (2, 3):
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                Order.objects.create(number=count)
            assert len(callbacks) == 1
            assert len(self.receiver.requests) == count


class NothingIsSent(TestCase):
    """A TestCase never commits: no request leaves a suite by accident."""

    @override_settings(DJANGO_WEBHOOKS=IMMEDIATE)
    def test_save_in_a_test_case_sends_nothing(self):
        with Receiver() as receiver:
            subscribe(url=receiver.url)
            Order.objects.create(number="1")
            assert receiver.requests == []
            assert Event.objects.count() == 1
            drain()
            assert len(receiver.requests) == 1
