"""Loops: a webhook that makes its receiver call us, which makes a webhook, comes to an end."""

import asyncio
import itertools
import json
import time
import urllib.request
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.core.signing import TimestampSigner
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from hypothesis import given
from hypothesis import strategies as st

from django_webhooks import hops
from django_webhooks.fanout import explain
from django_webhooks.models import Delivery, Event
from django_webhooks.outbox import publish, publish_test, redeliver
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


def call_back(url, *, passing_on=True, most=10):
    """What a receiver does that calls `url` of ours because of each webhook: `most` times."""
    calls = itertools.count()

    def answer(request):
        if next(calls) >= most:
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


def header(count, *marks):
    return hops.write_header(hops.Chain(count, marks))


def mark(subscription):
    return hops.mark_of(subscription.pk, subscription.owner_id)


def told(event):
    """The subscriptions that it is sent to."""
    sent = event.deliveries.exclude(status="cancelled")
    return {delivery.subscription for delivery in sent}


@pytest.fixture
def owners(django_user_model):
    return [django_user_model.objects.create_user(name) for name in ("mallory", "mike")]


def all_hops():
    return list(Event.objects.order_by("id").values_list("hops", flat=True))


# The loop


def test_loop_over_a_receiver_ends_at_max_hops_with_a_visible_delivery(
    live_server, subscribe, receiver, configure, caplog, capsys
):
    subscribe("shop.order.updated")
    receiver.answer = call_back(f"{live_server.url}/save/")
    configure(MAX_HOPS=3)
    Order.objects.create(number="loop").save()
    drain_rounds(10)
    assert len(receiver.requests) == 3
    assert all_hops() == [1, 2, 3, 4]
    cut = Delivery.objects.get(event__hops=4)
    assert cut.status == "cancelled"
    assert cut.completed_at
    assert "cut after MAX_HOPS: 4 hops" in cut.reason
    assert cut.event_id in caplog.text
    call_command("webhooks_explain", cut.event_id)
    assert "cut after MAX_HOPS: 4 hops" in capsys.readouterr().out


def test_loop_over_two_receivers_ends(live_server, subscribe, receiver, configure, owners):
    """Each has the other called: A tells B tells A."""
    a, b = (subscribe("shop.order.updated") for _ in range(2))
    receiver.answer = call_back(f"{live_server.url}/save/", most=100)
    configure(MAX_HOPS=2)
    Order.objects.create(number="loop").save()
    drain_rounds(10)
    # 2 and 4 requests; then of each of those four events the one that did not cause it is told.
    assert len(receiver.requests) == 2 + 4 + 4
    assert Delivery.objects.filter(status="cancelled").count() == 4 + 4 * 2
    assert {mark(a), mark(b)} == set(Event.objects.filter(hops=4).last().through)


def test_loop_of_an_owner_with_many_subscriptions_ends_as_with_one(
    live_server, subscribe, receiver, configure, owners, monkeypatch
):
    monkeypatch.setattr("tests.shop.webhooks.OrderWebhook.get_owner", lambda *args: owners[0])
    for _ in range(3):
        subscribe("shop.order.updated", owner=owners[0])
    receiver.answer = call_back(f"{live_server.url}/save/", most=100)
    configure(MAX_HOPS=2)
    Order.objects.create(number="loop").save()
    drain_rounds(10)
    assert len(receiver.requests) == 3 + 3 * 3


def test_redelivered_by_hand_a_cut_delivery_is_sent(client, subscribe, receiver, configure):
    subscription = subscribe("shop.order.*")
    configure(MAX_HOPS=1)
    client.post("/save/", headers={hops.HEADER: header(1, mark(subscription))})
    drain()
    assert receiver.requests == []
    redeliver(Delivery.objects.all())
    drain()
    assert len(receiver.requests) == Delivery.objects.count() == 2


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
    with hops.caused_by(hops.Chain(100_000)):  # beyond what the column holds
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
    assert hops.read_header(request.headers[hops.HEADER]) == (1, ())
    assert request.headers[hops.HEADER].startswith("1:")


@pytest.mark.parametrize("url", ["/save/", "/asave/"])
def test_what_a_view_saves_counts_one_more_than_its_request(client, subscribe, url):
    subscribe("shop.order.*")
    client.post(url, headers={hops.HEADER: header(2)})
    client.post(url)
    assert all_hops() == [3, 3, 1]
    assert hops.current() == hops.NONE


@pytest.mark.parametrize("url", ["/save/", "/asave/"])
def test_hops_are_counted_under_asgi(subscribe, url):
    subscribe("shop.order.*")

    async def call():
        headers = {hops.HEADER: header(2)}
        await AsyncClient().post(url, headers=headers)
        await sync_to_async(connections.close_all)()  # those of the thread that ran the view
        return hops.current()

    assert asyncio.run(call()) == hops.NONE
    assert set(all_hops()) == {3}


def test_requests_at_the_same_time_do_not_count_for_each_other(subscribe):
    async def call(number):
        with hops.caused_by(hops.Chain(number, (f"o{number}",))):
            await asyncio.sleep(0.01)
            return hops.current()

    async def both():
        return await asyncio.gather(call(1), call(7))

    assert asyncio.run(both()) == [(1, ("o1",)), (7, ("o7",))]


def test_chain_goes_through_a_queue_as_json(subscribe):
    chain = hops.Chain(5, ("o1", "s2"))
    with hops.caused_by(json.loads(json.dumps(chain))):
        assert hops.current() == chain


def test_failed_rendering_and_publish_count_too(client, subscribe, monkeypatch):
    subscribe("*")
    monkeypatch.setattr("tests.shop.webhooks.OrderWebhook.get_owner", lambda *args: 1 / 0)
    with hops.caused_by(hops.Chain(1)):
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
    assert Delivery.objects.get(event__hops=3).status == "cancelled"
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
    with hops.caused_by(hops.Chain(4)):
        drain()
    assert all_hops() == [1, 1]
    assert tell


def test_test_event_beyond_the_limit_is_not_sent(subscribe, receiver, configure):
    """A receiver may have us send it a test event for each test event."""
    subscription = subscribe()
    configure(MAX_HOPS=2)
    with hops.caused_by(hops.Chain(1).passed_on_by(mark(subscription))):
        publish_test(subscription)
    with hops.caused_by(hops.Chain(2).passed_on_by(mark(subscription))):
        delivery = publish_test(subscription)
    drain()
    assert len(receiver.requests) == 1
    assert delivery.status == "cancelled"
    assert "MAX_HOPS" in delivery.reason


# Headers that are not ours


def forged():
    genuine = header(1)
    rest = genuine.removeprefix("1:")
    other_salt = TimestampSigner(salt="something else").sign("9")
    other_key = TimestampSigner(key="x" * 50, salt="django_webhooks.hops").sign("9")
    return [
        *("", "9", "-9", "99999999999999999999", "1e9", "many", "٣", "1:2:3", ":::", "\xff\xfe"),
        *(
            f"1.o1:{rest}",
            f"9:{rest}",
            f"-1:{rest}",
            f"{genuine}, {genuine}",
            genuine[:-1],
            other_salt,
            other_key,
        ),
    ]


def test_forged_header_gains_nothing(client, subscribe, receiver):
    """A mark in it would keep the webhooks of the caller's own change from somebody."""
    subscribe("shop.order.updated")
    Order.objects.create(number="loop")
    values = forged()
    for value in values:
        client.post("/save/", headers={hops.HEADER: value})
    drain()
    assert set(all_hops()) == {1}
    assert len(receiver.requests) == len(values)


def test_header_counts_for_ten_minutes(monkeypatch):
    value = header(3, "o1")
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 590)
    assert hops.read_header(value) == (3, ("o1",))
    monkeypatch.setattr("time.time", lambda: now + 610)
    assert hops.read_header(value) == hops.NONE


def test_header_outlives_the_rotation_of_the_secret_key(settings):
    value = header(3)
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "n" * 50
    assert hops.read_header(value) == (3, ())


# Headers that are ours, kept for another occasion


def collect(headers):
    """A receiver that keeps the header of each webhook to Mallory."""

    def answer(request):
        if request.path.endswith("mallory"):
            headers.append(request.headers[hops.HEADER])
        return 204

    return answer


def test_who_replays_kept_headers_silences_nobody_else(
    client, subscribe, receiver, configure, owners, monkeypatch
):
    """As long as they like, with each header that they get: staff are told of every change."""
    mallory = owners[0]
    monkeypatch.setattr("tests.shop.webhooks.OrderWebhook.get_owner", lambda *args: mallory)
    staffs = subscribe("shop.order.updated")
    mallorys = subscribe("shop.order.updated", owner=mallory, url=f"{receiver.url}/mallory")
    receiver.answer = collect(kept := [])
    configure(MAX_HOPS=3)
    Order.objects.create(number="loop").save()
    for _ in range(6):
        drain()
        for value in kept[-2:]:
            client.post("/save/", headers={hops.HEADER: value})
    drain()
    updates = Event.objects.filter(type="shop.order.updated").order_by("id")
    assert max(event.hops for event in updates) > 3
    assert [staffs in told(event) for event in updates] == [True] * len(updates)
    assert not all(mallorys in told(event) for event in updates), "they silence themselves"


def test_header_that_came_by_staffs_receiver_leaves_staff_out_of_nothing_that_others_do(
    subscribe, owners
):
    """What it changes may be a webhook to somebody, who keeps the header of that."""
    staffs = mark(subscribe("billing.*"))
    mallorys, mikes = (mark(subscribe("billing.*", owner=owner)) for owner in owners)
    chain = hops.Chain(5).passed_on_by(mallorys).passed_on_by(staffs)
    assert chain.through == (mallorys, staffs), "neither is told: that is how the loop ends"
    assert chain.passed_on_by(mikes).through == (mallorys, mikes)


def test_one_time_subscription_is_not_completed_by_a_loop(client, subscribe, receiver, configure):
    subscription = subscribe("shop.order.updated", mode="one_time")
    Order.objects.create(number="loop")
    configure(MAX_HOPS=1)
    client.post("/save/", headers={hops.HEADER: header(1, mark(subscription))})
    drain()
    assert "MAX_HOPS" in explain(Event.objects.get())[0].reason
    client.post("/save/")
    drain()
    subscription.refresh_from_db()
    assert subscription.status == "completed"
    assert len(receiver.requests) == 1


@given(st.data())
def test_every_chain_ends(data):
    """Whoever passes on: at MAX_HOPS and beyond, some time everybody is left out."""
    owned, of_staff = ["o1", "o2", "o3"], ["s1", "s2", "s3"]
    chain = hops.Chain(5)
    for _ in range((len(owned) + 1) * (len(of_staff) + 1)):
        free = [each for each in owned + of_staff if each not in chain.through]
        if not free:
            break
        chain = chain.passed_on_by(data.draw(st.sampled_from(free)))
    assert not free


def test_mark_tells_nothing_and_stands_for_an_owner_or_for_one_of_staffs():
    pk, other = uuid.uuid4(), uuid.uuid4()
    assert hops.mark_of(pk, 7) == hops.mark_of(other, 7)
    assert len({hops.mark_of(pk, 7), hops.mark_of(pk, 8), hops.mark_of(pk, None)}) == 3
    assert hops.mark_of(pk, None) != hops.mark_of(other, None)
    assert not {str(pk), pk.hex} & {hops.mark_of(pk, None), hops.mark_of(pk, None)[1:]}
