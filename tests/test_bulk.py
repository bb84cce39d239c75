"""Rows inserted many at a time: what is there stays, and nothing points to what is gone."""

import uuid

import pytest
from django.db import connection
from django.utils import timezone

from django_webhooks import bulk
from django_webhooks.models import Delivery, Event, Subscription

pytestmark = pytest.mark.django_db

NAMES = ("event", "subscription", "matched")


@pytest.fixture
def event() -> Event:
    return Event.objects.create(type="shop.order.created")


@pytest.fixture
def subscriptions() -> list[Subscription]:
    made = [Subscription(url="https://example.com/", name=str(number)) for number in range(5)]
    return Subscription.objects.bulk_create(made)


def insert(like: Delivery, rows: list[tuple]) -> None:
    bulk.insert(like, NAMES, rows, parent="subscription", using="default")


def test_each_row_has_its_own_values_and_all_have_those_of_the_instance(event, subscriptions):
    now = timezone.now()
    like = Delivery(created_at=now, completed_at=now, status="cancelled", reason="it's “%s”")
    texts = ["a'b", "", '{1,2}\\"', "ü €", "NULL"]
    insert(
        like, [(event.pk, each.pk, text) for each, text in zip(subscriptions, texts, strict=True)]
    )
    made = list(Delivery.objects.order_by("pk"))
    assert [each.subscription for each in made] == subscriptions, "in the order of the rows"
    assert [each.matched for each in made] == texts
    for each in made:
        found = (each.event, each.status, each.reason, each.created_at, each.completed_at)
        assert found == (event, "cancelled", "it's “%s”", now, now)
        rest = (each.next_attempt_at, each.lease_token, each.attempt_count, each.first_attempt)
        assert rest == (None, None, 0, 1)


def test_what_is_there_already_is_left_as_it_is(event, subscriptions):
    one, two = subscriptions[:2]
    Delivery.objects.create(event=event, subscription=one, matched="before")
    insert(Delivery(), [(event.pk, one.pk, "after"), (event.pk, two.pk, "after")])
    found = Delivery.objects.order_by("subscription__name").values_list("matched", flat=True)
    assert list(found) == ["before", "after"]


def test_more_rows_than_one_statement_takes_are_inserted_in_their_order(
    event, subscriptions, monkeypatch
):
    monkeypatch.setattr(bulk, "ROWS", 2)
    monkeypatch.setattr(bulk, "ARRAYED", 2)
    insert(Delivery(), [(event.pk, each.pk, each.name) for each in subscriptions])
    found = Delivery.objects.order_by("pk").values_list("matched", flat=True)
    assert list(found) == ["0", "1", "2", "3", "4"]


def test_no_rows_are_no_query(django_assert_num_queries):
    with django_assert_num_queries(0):
        insert(Delivery(), [])


@pytest.mark.skipif(
    not connection.features.has_select_for_update,
    reason="on SQLite one transaction writes at a time",
)
def test_rows_whose_parent_is_gone_are_left_out(event, subscriptions):
    gone = uuid.uuid4()
    insert(Delivery(), [(event.pk, gone, ""), (event.pk, subscriptions[0].pk, "")])
    assert Delivery.objects.get().subscription == subscriptions[0]
