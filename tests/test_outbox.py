"""The Event is part of the caller's transaction, and costs it next to nothing."""

import logging

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from django_webhooks import outbox
from django_webhooks.backends import get_backend
from django_webhooks.backends.base import QueueBackend
from django_webhooks.exceptions import PayloadError, PayloadTooLarge, UnknownEventType
from django_webhooks.models import Attempt, Delivery, Event, Rule, Subscription
from django_webhooks.outbox import publish, publish_test, recover, redeliver
from django_webhooks.signals import event_published
from django_webhooks.worker import drain
from tests.shop.models import Customer, Order, Page

committed = pytest.mark.django_db(transaction=True)


# One transaction


@committed
def test_rolled_back_save_publishes_nothing(subscribe, receiver, wakes):
    subscribe("shop.order.*")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Order.objects.create(number="1")
        1 / 0  # noqa: B018
    drain()
    assert not Event.objects.exists()
    assert receiver.requests == []
    assert wakes == []


@committed
def test_rolled_back_savepoint_publishes_nothing_and_the_rest_is_published(subscribe, receiver):
    subscribe("shop.order.*")
    with transaction.atomic():
        Order.objects.create(number="kept")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Order.objects.create(number="gone")
            1 / 0  # noqa: B018
    drain()
    assert [event.data["number"] for event in Event.objects.all()] == ["kept"]
    assert len(receiver.requests) == 1


@committed
def test_save_in_autocommit_and_its_event_are_one_transaction(subscribe, monkeypatch):
    """Without a transaction of ours, the row would be committed before its Event is written."""
    subscribe("shop.order.*")

    def fail(*args, **kwargs):
        raise DatabaseError("disk full")

    monkeypatch.setattr("django_webhooks.outbox.write", fail)
    with pytest.raises(DatabaseError):
        Order.objects.create(number="1")
    assert not Order.objects.exists()


@committed
def test_event_is_seen_by_nobody_before_the_commit(subscribe, wakes):
    subscribe("shop.order.*")
    told = []

    def tell(event, **kwargs):
        told.append((event.type, connection.in_atomic_block))

    event_published.connect(tell)
    try:
        with transaction.atomic():
            Order.objects.create(number="1")
            assert (told, wakes) == ([], [])
    finally:
        event_published.disconnect(tell)
    assert told == [("shop.order.created", False)]
    assert wakes == ["default"]


@committed
def test_transaction_of_many_saves_wakes_once(subscribe, wakes):
    subscribe("shop.order.*")
    with transaction.atomic():
        for number in range(100):
            with transaction.atomic():
                Order.objects.create(number=number)
    assert wakes == ["default"]


@committed
def test_wake_is_not_lost_with_the_savepoint_that_asked_first(subscribe, wakes):
    subscribe("shop.order.*")
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Order.objects.create(number="gone")
            1 / 0  # noqa: B018
        Order.objects.create(number="kept")
    assert wakes == ["default"]


# The broker


class DeadBackend(QueueBackend):
    calls = 0

    def enqueue(self, using: str) -> None:
        type(self).calls += 1
        raise ConnectionError("broker down")


@committed
def test_dead_broker_never_breaks_a_save_and_is_left_alone(subscribe, receiver, settings, caplog):
    settings.DJANGO_WEBHOOKS = {
        **settings.DJANGO_WEBHOOKS,
        "TASK_BACKEND": f"{__name__}.DeadBackend",
    }
    subscribe("shop.order.*")
    for number in range(5):
        Order.objects.create(number=number)
    assert DeadBackend.calls == 1, "the breaker skips the broker after one failure"
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
    drain()  # as the sweep does when the broker is back
    assert len(receiver.requests) == 5


def test_wakes_are_held_back_for_a_second_per_process(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("django_webhooks.backends.base.time.monotonic", lambda: now[0])
    sent = []

    class Backend(QueueBackend):
        def enqueue(self, using):
            sent.append(now[0])

    backend = Backend()
    for step in range(100):
        now[0] = 100.0 + step / 50
        backend.wake("default")
    assert sent == [100.0, 101.0]


def test_slow_broker_is_left_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("django_webhooks.backends.base.time.monotonic", lambda: now[0])
    sent = []

    class Backend(QueueBackend):
        def enqueue(self, using):
            sent.append(now[0])
            now[0] += 5

    backend = Backend()
    backend.wake("default")
    now[0] += 20
    backend.wake("default")
    now[0] += 11
    backend.wake("default")
    assert sent == [100.0, 136.0]


# What it costs


def listeners(count, event_type="shop.*", **fields):
    subscriptions = Subscription.objects.bulk_create(
        Subscription(url="https://example.com/", name=str(number), **fields)
        for number in range(count)
    )
    Rule.objects.bulk_create(
        Rule(subscription=each, event_type=event_type, conditions={}) for each in subscriptions
    )


def queries_of(action) -> int:
    with CaptureQueriesContext(connection) as captured:
        action()
    return len(captured)


@pytest.mark.django_db
@pytest.mark.parametrize("count", [0, 1, 100, 1000])
def test_save_costs_the_same_however_many_subscriptions_there_are(count):
    customer = Customer.objects.create(name="Ada", email="ada@example.com")
    bare = {"create": 1, "update": 1, "delete": 2}  # Django looks for items before it deletes
    listeners(count)
    order = Order(number="1", customer=customer)
    cost = {"create": queries_of(order.save)}
    order.status = "paid"
    cost["update"] = queries_of(order.save)
    cost["delete"] = queries_of(order.delete)
    extra = {action: cost[action] - bare[action] for action in cost}
    assert extra == ({"create": 2, "update": 3, "delete": 3} if count else dict.fromkeys(cost, 1))
    assert Event.objects.count() == (3 if count else 0)


@committed
def test_autocommit_save_that_nobody_listens_to_costs_one_query():
    listeners(0)
    assert queries_of(Order(number="1").save) == 2


@pytest.mark.django_db
def test_rules_of_others_do_not_count_as_listening():
    listeners(10, "crm.customer.created")
    assert queries_of(Order(number="1").save) == 2
    assert not Event.objects.exists()


@committed
def test_subscription_made_a_moment_ago_counts_at_once(subscribe):
    Order.objects.create(number="1")
    subscribe("shop.order.created")
    Order.objects.create(number="2")
    assert [event.data["number"] for event in Event.objects.all()] == ["2"]


# publish()


@committed
def test_publish_sends_what_was_passed(subscribe, receiver):
    subscription = subscribe("billing.*")
    customer = Customer.objects.create(name="Ada")
    event = publish("billing.invoice_paid", {"invoice": 7}, subject=customer)
    drain()
    message = receiver.requests[0].verify(subscription.secret)
    assert message.id == event.id
    assert message.type == "billing.invoice_paid"
    assert message.data == {"invoice": 7}
    assert event.subject == customer


@pytest.mark.django_db
def test_publish_without_a_listener_is_none():
    assert publish("billing.invoice_paid", {"invoice": 7}) is None
    assert not Event.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("event_type", "data", "error", "says"),
    [
        ("billing.invoice_payed", {}, UnknownEventType, "Did you mean 'billing.invoice_paid'"),
        ("", {}, UnknownEventType, "Nothing publishes"),
        ("billing.invoice_paid", {"x": object()}, PayloadError, "JSON"),
        ("billing.invoice_paid", {"x": float("inf")}, PayloadError, "JSON"),
        ("billing.invoice_paid", {"x": "\x00"}, PayloadError, "NUL"),
        ("billing.invoice_paid", {"x": "y" * 262144}, PayloadTooLarge, "MAX_PAYLOAD_BYTES"),
    ],
)
def test_publish_refuses_what_cannot_be_sent(subscribe, event_type, data, error, says):
    subscribe("*")
    with pytest.raises(error, match=says):
        publish(event_type, data)
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_publish_refuses_an_owner_of_another_model(subscribe):
    with pytest.raises(TypeError, match="OWNER_MODEL"):
        publish("billing.invoice_paid", {}, owner=Customer.objects.create(name="x"))


@pytest.mark.django_db
def test_publish_keeps_a_subject_that_is_false(subscribe, monkeypatch):
    subscribe("billing.*")
    customer = Customer.objects.create(name="Ada")
    monkeypatch.setattr(Customer, "__len__", lambda self: 0, raising=False)
    event = publish("billing.invoice_paid", {}, subject=customer)
    assert (event.subject_type, event.subject_id) == ("shop.customer", str(customer.pk))


@pytest.mark.django_db
def test_publish_cuts_the_key_of_a_subject_that_an_event_cannot_hold(subscribe):
    subscribe("billing.*")
    publish("billing.invoice_paid", {}, subject=Page(url="x" * 400))
    assert Event.objects.get().subject_id == "x" * 255


# redeliver(), recover()


@committed
def test_redelivery_sends_the_same_bytes_under_the_same_id(subscribe, receiver):
    subscription = subscribe("shop.order.*")
    Order.objects.create(number="1")
    drain()
    assert redeliver(Delivery.objects.all()) == 1
    drain()
    first, second = receiver.requests
    assert first.body == second.body
    assert first.id == second.id
    second.verify(subscription.secret)
    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.attempt_count) == ("succeeded", 2)
    assert [attempt.number for attempt in delivery.attempts.all()] == [1, 2]


@committed
def test_redelivery_begins_the_schedule_anew(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": [0]}
    receiver.answer = lambda request: 500
    subscribe("shop.order.*")
    Order.objects.create(number="1")
    drain()
    assert len(receiver.requests) == 2
    redeliver(Delivery.objects.all())
    drain()
    assert len(receiver.requests) == 4
    assert Delivery.objects.get().status == "failed"


@committed
def test_redelivery_hurries_a_waiting_retry_and_skips_what_is_in_flight(subscribe, receiver):
    receiver.answer = lambda request: 500
    subscribe("shop.order.*")
    Order.objects.create(number="1")
    drain()
    delivery = Delivery.objects.get()
    assert delivery.status == "pending"
    assert redeliver([delivery]) == 1
    drain()
    assert len(receiver.requests) == 2
    Delivery.objects.update(lease_token="00000000-0000-0000-0000-000000000001")
    assert redeliver(Delivery.objects.all()) == 0


@committed
def test_each_round_of_attempts_is_told_from_the_one_before(subscribe, receiver, configure):
    configure(RETRY_SCHEDULE=[0])
    receiver.answer = lambda request: 500
    subscribe("*")
    Order.objects.create(number="1")
    for _ in range(3):
        drain()
        redeliver(Delivery.objects.all())
    firsts = Attempt.objects.order_by("number").values_list("is_first", flat=True)
    assert list(firsts) == [True, False] * 3


@committed
def test_many_are_redelivered_few_at_a_time(subscribe, receiver, monkeypatch):
    """SQLite takes so many ids in one statement and no more; no worker waits for all of them."""
    monkeypatch.setattr(outbox, "BATCH", 2)
    subscription = subscribe("shop.order.*")
    for number in range(5):
        Order.objects.create(number=number)
    drain()
    asked = []

    def update(execute, sql, params, many, context):
        if sql.startswith("UPDATE") and "django_webhooks_delivery" in sql:
            asked.append(sum(each in ids for each in params or ()))
        return execute(sql, params, many, context)

    ids = set(Delivery.objects.values_list("pk", flat=True))
    with connection.execute_wrapper(update):
        assert redeliver(Delivery.objects.all()) == 5
    assert max(asked) <= 3, "two, and perhaps a number that looks like one"
    assert Delivery.objects.pending().filter(subscription=subscription).count() == 5


@committed
def test_recover_redelivers_what_failed_since(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": []}
    receiver.answer = lambda request: 500
    subscription = subscribe("shop.order.*")
    Order.objects.create(number="before")
    drain()
    since = Event.objects.get().occurred_at
    Event.objects.update(occurred_at=since.replace(year=2020))
    Order.objects.create(number="after")
    drain()
    receiver.answer = lambda request: 200
    assert recover(subscription, since, dry_run=True) == 1
    assert len(receiver.requests) == 2
    assert recover(subscription, since) == 1
    drain()
    assert b'"after"' in receiver.requests[-1].body
    assert sorted(Delivery.objects.values_list("status", flat=True)) == ["failed", "succeeded"]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_change_on_another_alias_wakes_and_is_delivered(subscribe, receiver, wakes):
    subscription = subscribe("shop.order.*", using="other")
    Order.objects.using("other").create(number="1")
    assert wakes == ["other"]
    drain()
    receiver.requests[0].verify(subscription.secret)
    assert Delivery.objects.using("other").get().status == "succeeded"


# A replica


class ReadReplica:
    """A router: `other` stands in for a replica of `default`."""

    def db_for_read(self, model, **hints):
        return "other"

    def db_for_write(self, model, **hints):
        return "default"

    def allow_relation(self, first, second, **hints):
        return True


@pytest.fixture
def replicate(settings):
    """Copies rows to the replica, and reads from there from now on."""

    def copy(*rows):
        for row in rows:
            row.save_base(raw=True, using="other", force_insert=True)
        settings.DATABASE_ROUTERS = [ReadReplica()]

    return copy


both_databases = pytest.mark.django_db(databases=["default", "other"])


@both_databases
def test_event_about_a_subject_read_from_a_replica_is_written_to_the_primary(subscribe, replicate):
    subscribe("billing.*")
    replicate(Customer.objects.create(name="Ada"))
    customer = Customer.objects.get()
    assert customer._state.db == "other"
    publish("billing.invoice_paid", {}, subject=customer)
    assert Event.objects.using("default").count() == 1
    assert not Event.objects.using("other").exists()


@both_databases
def test_test_event_of_a_subscription_read_from_a_replica_is_written_to_the_primary(
    subscribe, replicate
):
    replicate(subscribe("billing.*"))
    delivery = publish_test(Subscription.objects.get())
    assert delivery._state.db == "default"
    assert Delivery.objects.using("default").get() == delivery
    assert not Delivery.objects.using("other").exists()


@both_databases
def test_delivery_read_from_a_replica_is_redelivered_from_the_primary(subscribe, replicate):
    subscription = subscribe("billing.*")
    event = publish("billing.invoice_paid", {})
    delivery = Delivery.objects.create(event=event, subscription=subscription, status="failed")
    replicate(subscription, event, delivery)
    assert redeliver(Delivery.objects.all()) == 1
    statuses = [Delivery.objects.using(alias).get().status for alias in ("default", "other")]
    assert statuses == ["pending", "failed"]


@both_databases
def test_recover_looks_for_what_failed_in_the_primary(subscribe, replicate):
    subscription = subscribe("billing.*")
    event = publish("billing.invoice_paid", {})
    Delivery.objects.create(event=event, subscription=subscription, status="failed")
    replicate(subscription)  # the delivery has not got there yet
    subscription = Subscription.objects.get()
    assert recover(subscription, event.occurred_at, dry_run=True) == 1
    assert recover(subscription, event.occurred_at) == 1


def test_backend_is_one_per_process():
    assert get_backend() is get_backend()
