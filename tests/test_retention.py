"""What is pruned, what never is, and what it costs."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from django_webhooks import retention
from django_webhooks.backends import django_q
from django_webhooks.models import Attempt, Delivery, Event
from django_webhooks.retention import prune, prune_for
from tests.tables import Tables

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def tables(monkeypatch) -> Tables:
    monkeypatch.setattr(retention, "BATCH", 10)
    return Tables()


def totals() -> dict[str, int]:
    found: dict[str, int] = {}
    for what, count in prune():
        found[what] = found.get(what, 0) + count
    return {what: count for what, count in found.items() if count}


def test_deliveries_are_pruned_with_their_attempts_and_events(tables):
    tables.settled(25, tables.subscribe(2), days=40)
    tables.events(25, days=20)
    tables.settled(5, tables.subscribe(1), days=20)
    tables.events(5)
    assert totals() == {"succeeded deliveries": 25, "events without a delivery": 50}
    assert (Event.objects.count(), Delivery.objects.count(), Attempt.objects.count()) == (10, 5, 5)
    assert totals() == {}


def test_pending_deliveries_and_waiting_events_are_never_pruned(tables):
    long_ago = timezone.now() - timedelta(days=1000)
    tables.due(5, tables.subscribe(1))
    tables.events(5, waiting=True)
    Event.objects.update(occurred_at=long_ago)
    Delivery.objects.update(created_at=long_ago, completed_at=long_ago)
    assert totals() == {}


def test_delivery_that_is_sent_again_while_it_is_pruned_is_kept(tables, monkeypatch):
    tables.settled(1, tables.subscribe(1), days=40)
    delete = retention._delete

    def reopen_before(rows, ids):
        Delivery.objects.all().reopen()
        return delete(rows, ids)

    monkeypatch.setattr(retention, "_delete", reopen_before)
    assert totals() == {}
    assert Delivery.objects.get().status == "pending"


def test_each_batch_is_a_transaction_of_its_own_and_loads_no_payload(tables):
    tables.settled(25, tables.subscribe(1), days=40)
    steps = prune()
    with CaptureQueriesContext(connection) as queries:
        next(steps)
        next(steps)
    assert not connection.in_atomic_block
    assert (Event.objects.count(), Delivery.objects.count()) == (15, 15)
    steps.close()  # interrupted
    assert not [each["sql"] for each in queries if "body" in each["sql"] or "url" in each["sql"]]
    assert totals() == {"succeeded deliveries": 15, "events without a delivery": 15}


def test_none_keeps_for_ever(tables, settings):
    never = {"succeeded": None, "failed": None, "unmatched": None}
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETENTION": never}
    tables.settled(5, tables.subscribe(1), days=40)
    assert totals() == {}


def test_daily_task_ends_in_time_and_another_goes_on(tables, monkeypatch, settings):
    monkeypatch.setattr(django_q, "PRUNE_SECONDS", 0)
    tables.settled(25, tables.subscribe(1), days=40)
    django_q.prune()
    assert Delivery.objects.count() == 15
    assert [task.task["func"] for task in OrmQ.objects.all()] == [django_q.PRUNE_TASK]
    OrmQ.objects.all().delete()
    while prune_for(0):
        pass
    assert Event.objects.count() == 0
    django_q.prune()
    assert not OrmQ.objects.exists(), "with nothing left to prune no other task is wanted"


def test_daily_task_never_raises(monkeypatch, caplog):
    def fail():
        raise RuntimeError("database gone")

    monkeypatch.setattr(retention, "outbox_aliases", fail)
    django_q.prune()
    assert "could not be pruned" in caplog.text
