"""What we ship for the tests of projects works in each kind of test."""

import ast
import socket
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from django_webhooks.models import Event, Subscription
from django_webhooks.outbox import publish
from django_webhooks.testing import BEHAVIOURS, capture_webhooks, receivers
from django_webhooks.testing import Receiver as Hostile
from django_webhooks.testing.receivers import reply
from django_webhooks.transport import Request, Transport
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


# The receivers


@contextmanager
def sent_to(behaviour):
    allowed = (ip_network("127.0.0.0/8"),)
    transport = Transport(allow_http=True, allowed_networks=allowed)
    with Hostile(behaviour) as receiver:
        yield transport.send(Request(receiver.url, {}, b"{}", 0.5)), receiver
    transport.close()


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_each_behaviour_ends_in_time_and_leaves_no_thread(name):
    before = threading.active_count()
    with sent_to(name) as (exchange, receiver):
        assert receiver.connections == 1
    assert exchange.duration_ms < 1500
    assert bool(exchange.error) is not (exchange.status_code == 200)
    assert threading.active_count() <= before  # those of an earlier test may have ended


def test_a_behaviour_may_be_a_function_of_ones_own():
    with sent_to(reply(503, b"later", "retry-after: 7\r\n")) as (exchange, receiver):
        assert (exchange.status_code, exchange.retry_after) == (503, "7")
        assert receiver.requests[0].body == b"{}"


def test_an_unknown_behaviour_is_an_error_at_once():
    with pytest.raises(KeyError):
        Hostile("friendly")


def test_a_receiver_has_so_many_threads_and_no_more(monkeypatch):
    monkeypatch.setattr(receivers, "MAX_CONNECTIONS", 2)
    before = threading.active_count()
    with Hostile("silent") as receiver, ExitStack() as callers:
        for _ in range(5):
            callers.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
        time.sleep(0.2)
        assert receiver.connections == 2
        assert threading.active_count() - before == 3


def test_a_receiver_is_reached_from_this_machine_only():
    with Hostile() as receiver:
        assert receiver.url.startswith("http://127.0.0.1:")
        assert receiver._sockets[0].getsockname()[0] == "127.0.0.1"


def test_the_receivers_need_the_standard_library_alone():
    tree = ast.parse(Path(receivers.__file__).read_text())
    nodes = [each for each in ast.walk(tree) if isinstance(each, ast.Import | ast.ImportFrom)]
    names = {getattr(each, "module", None) or each.names[0].name for each in nodes}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
