"""Loops: a webhook that makes its receiver call us, which makes a webhook, comes to an end."""

import asyncio
import itertools
import time
import urllib.request

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.core.signing import TimestampSigner
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from django_webhooks import hops
from django_webhooks.models import Delivery, Event
from django_webhooks.outbox import publish, publish_test
from django_webhooks.signals import delivery_succeeded, event_published, subscription_disabled
from django_webhooks.worker import drain
from tests.shop.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]

IMMEDIATE = "django_webhooks.backends.immediate.ImmediateBackend"


@csrf_exempt
def save_order(request):
    order, _ = Order.objects.get_or_create(number="loop")
    order.save()
    return HttpResponse(status=204)


@csrf_exempt
async def asave_order(request):
    order, _ = await Order.objects.aget_or_create(number="loop")
    await order.asave()
    return HttpResponse(status=204)


urlpatterns = [path("save/", save_order), path("asave/", asave_order)]


@pytest.fixture
def connected():
    """Connects receivers of signals for the time of a test."""
    pairs = []

    def connect(signal, function):
        signal.connect(function)
        pairs.append((signal, function))

    yield connect
    for signal, function in pairs:
        signal.disconnect(function)


def call_back(url, *, passing_on=True):
    """What a receiver does that calls `url` of ours because of each webhook: ten at most."""
    calls = itertools.count()

    def answer(request):
        if next(calls) == 10:
            return 204
        headers = {hops.HEADER: request.headers[hops.HEADER]} if passing_on else {}
        call = urllib.request.Request(url, b"{}", headers, method="POST")
        with urllib.request.urlopen(call, timeout=10):
            return 204

    return answer


def drain_rounds(most):
    for _ in range(most):
        if not drain():
            break


def all_hops():
    return list(Event.objects.order_by("id").values_list("hops", flat=True))


# The loop


def test_loop_over_a_receiver_ends_at_max_hops_with_a_visible_event(
    live_server, subscribe, receiver, configure, caplog, capsys
):
    subscribe("shop.order.updated")
    receiver.answer = call_back(f"{live_server.url}/save/")
    configure(MAX_HOPS=3)
    Order.objects.create(number="loop").save()
    drain_rounds(10)
    assert len(receiver.requests) == 3
    assert all_hops() == [1, 2, 3, 4]
    cut = Event.objects.get(hops=4)
    assert "MAX_HOPS is 3" in cut.error
    assert cut.fanned_out_at is not None
    assert not cut.deliveries.exists()
    assert cut.pk in caplog.text
    call_command("webhooks_explain", cut.pk)
    assert "MAX_HOPS" in capsys.readouterr().out


def test_loop_ends_while_whoever_saves_sends_too(live_server, subscribe, receiver, configure):
    """Each request waits for the next one: without an end the first would never be answered."""
    subscribe("shop.order.updated")
    receiver.answer = call_back(f"{live_server.url}/save/")
    configure(MAX_HOPS=3, TASK_BACKEND=IMMEDIATE)
    Order.objects.create(number="loop").save()
    assert all_hops() == [1, 2, 3, 4]
    assert Delivery.objects.filter(status="succeeded").count() == 3


def test_receiver_that_drops_the_header_is_not_stopped_by_it(
    live_server, subscribe, receiver, configure
):
    subscribe("shop.order.updated")
    receiver.answer = call_back(f"{live_server.url}/save/", passing_on=False)
    configure(MAX_HOPS=1)
    Order.objects.create(number="loop").save()
    drain_rounds(10)
    assert all_hops() == [1] * 11


def test_no_limit_lets_a_long_chain_go_on(subscribe, receiver, configure):
    subscribe("billing.*")
    configure(MAX_HOPS=None)
    with hops.caused_by(100_000):  # beyond what the column holds
        event = publish("billing.notice", {})
    drain()
    assert event.error == ""
    assert event.hops == hops.MOST
    assert len(receiver.requests) == 1


# What counts


def test_event_of_our_own_making_is_hop_one(subscribe, receiver):
    subscribe("billing.*")
    publish("billing.notice", {})
    drain()
    [request] = receiver.requests
    assert hops.read_header(request.headers[hops.HEADER]) == 1
    assert request.headers[hops.HEADER].startswith("1:")


@pytest.mark.parametrize("url", ["/save/", "/asave/"])
def test_what_a_view_saves_counts_one_more_than_its_request(client, subscribe, url):
    subscribe("shop.order.*")
    client.post(url, headers={hops.HEADER: hops.write_header(2)})
    client.post(url)
    assert all_hops() == [3, 3, 1]
    assert hops.current() == 0


@pytest.mark.parametrize("url", ["/save/", "/asave/"])
def test_hops_are_counted_under_asgi(subscribe, url):
    subscribe("shop.order.*")

    async def call():
        headers = {hops.HEADER: hops.write_header(2)}
        await AsyncClient().post(url, headers=headers)
        await sync_to_async(connections.close_all)()  # those of the thread that ran the view
        return hops.current()

    assert asyncio.run(call()) == 0
    assert set(all_hops()) == {3}


def test_requests_at_the_same_time_do_not_count_for_each_other(subscribe):
    async def call(number):
        with hops.caused_by(number):
            await asyncio.sleep(0.01)
            return hops.current()

    async def both():
        return await asyncio.gather(call(1), call(7))

    assert asyncio.run(both()) == [1, 7]


def test_failed_rendering_and_publish_count_too(client, subscribe, monkeypatch):
    subscribe("*")
    monkeypatch.setattr("tests.shop.webhooks.OrderWebhook.get_owner", lambda *args: 1 / 0)
    with hops.caused_by(1):
        Order.objects.create(number="1")
        publish("billing.notice", {})
    assert all_hops() == [2, 2]
    assert "ZeroDivisionError" in Event.objects.order_by("id").first().error


def test_saves_of_a_signals_receiver_go_on_with_the_chain(
    subscribe, receiver, configure, connected
):
    """A loop without any receiver: who is told of a success saves what is published."""
    subscribe("shop.order.updated")
    configure(MAX_HOPS=2)
    order = Order.objects.create(number="1")
    connected(delivery_succeeded, save := lambda **kwargs: order.save())
    order.save()
    drain_rounds(10)
    assert all_hops() == [1, 2, 3]
    assert len(receiver.requests) == 2
    assert save


def test_publishing_about_what_was_published_ends(subscribe, configure, connected):
    subscribe("billing.*")
    configure(MAX_HOPS=4)
    connected(event_published, tell := lambda **kwargs: publish("billing.notice", {}))
    tell()
    assert all_hops() == [1, 2, 3, 4, 5]


def test_drain_in_a_request_counts_nothing_of_that_request(subscribe, receiver, connected):
    """With `ImmediateBackend`, a request may send what others have caused."""
    subscribe("billing.*")
    subscribe("shop.order.*")
    receiver.answer = lambda request: 410
    publish("billing.notice", {})
    connected(subscription_disabled, tell := lambda **kwargs: Order.objects.create(number="told"))
    with hops.caused_by(4):
        drain()
    assert all_hops() == [1, 1]
    assert tell


def test_test_event_beyond_the_limit_is_not_sent(subscribe, receiver, configure):
    """A receiver may have us send it a test event for each test event."""
    configure(MAX_HOPS=2)
    with hops.caused_by(2):
        delivery = publish_test(subscribe())
    drain()
    assert receiver.requests == []
    assert delivery.status == "cancelled"
    assert "MAX_HOPS" in delivery.reason


# Headers that are not ours


def forged():
    genuine = hops.write_header(1)
    rest = genuine.removeprefix("1:")
    other_salt = TimestampSigner(salt="something else").sign("9")
    other_key = TimestampSigner(key="x" * 50, salt="django_webhooks.hops").sign("9")
    return [
        *("", "9", "-9", "99999999999999999999", "1e9", "many", "٣", "1:2:3", ":::", "\xff\xfe"),
        *(f"9:{rest}", f"-1:{rest}", f"{genuine}, {genuine}", genuine[:-1], other_salt, other_key),
    ]


def test_forged_header_gains_nothing(client, subscribe, receiver):
    """A high number would keep the webhooks of the caller's own change from being sent."""
    subscribe("shop.order.updated")
    Order.objects.create(number="loop")
    values = forged()
    for value in values:
        client.post("/save/", headers={hops.HEADER: value})
    drain()
    assert set(all_hops()) == {1}
    assert len(receiver.requests) == len(values)


def test_header_counts_for_a_day(monkeypatch):
    value = hops.write_header(3)
    assert hops.read_header(value) == 3
    tomorrow = time.time() + 86_500
    monkeypatch.setattr("time.time", lambda: tomorrow)
    assert hops.read_header(value) == 0


def test_header_outlives_the_rotation_of_the_secret_key(settings):
    value = hops.write_header(3)
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "n" * 50
    assert hops.read_header(value) == 3
