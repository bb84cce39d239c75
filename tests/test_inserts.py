"""Rows written without `bulk_create()`: the same rows, and nothing points to what is gone."""

import uuid
from types import SimpleNamespace

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from django_webhooks import inserts
from django_webhooks.fanout import fan_out
from django_webhooks.inserts import insert, insert_alike
from django_webhooks.models import Attempt, Delivery, Event, Subscription
from tests.shop.models import Order

pytestmark = pytest.mark.django_db(transaction=True)

ODD = [{"ä": "“x”\\", "n": None}, [], "text", 1.5, {}]


@pytest.fixture
def delivery(subscribe) -> Delivery:
    subscribe("*")
    Order.objects.create(number="1")
    fan_out("default")
    return Delivery.objects.first()


def attempts(delivery: Delivery, count: int = 1) -> list[Attempt]:
    return [
        Attempt(
            delivery=delivery,
            number=number,
            is_first=number == 0,
            started_at=timezone.now(),
            url="https://example.com/%s?a='\\\"%%",
            request_headers=ODD[number % len(ODD)],
            status_code=None if number % 2 else 200,
            response_headers=ODD[number % len(ODD)],
            response_body="a\nb 'c' \\ %s ☃",
            error="",
            detail="x",
        )
        for number in range(count)
    ]


def written() -> list[dict]:
    return list(Attempt.objects.order_by("number").values())


def without_keys(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


def test_rows_are_as_bulk_create_writes_them(delivery):
    rows = attempts(delivery, 12)
    Attempt.objects.bulk_create(rows)
    expected = without_keys(written())
    Attempt.objects.all().delete()
    keys = insert(Attempt, rows, "default")
    assert without_keys(written()) == expected
    if connection.features.can_return_rows_from_bulk_insert:
        assert keys == [row["id"] for row in written()]


def test_more_rows_than_one_statement_takes_are_all_written(delivery):
    insert(Attempt, attempts(delivery, 700), "default")
    assert [row["number"] for row in written()] == list(range(700))


def test_large_rows_are_written_in_lots(delivery, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(inserts, "CHARACTERS", 1500)
    rows = attempts(delivery, 5)
    for row in rows:
        row.response_body = "x" * 1000
    with django_assert_num_queries(5 if connection.vendor == "postgresql" else 1):
        insert(Attempt, rows, "default")
    assert [row["response_body"] for row in written()] == ["x" * 1000] * 5


def test_a_row_need_not_be_an_instance(delivery):
    (row,) = attempts(delivery)
    names = [field.attname for field in Attempt._meta.concrete_fields if not field.primary_key]
    insert(Attempt, [SimpleNamespace(**{name: getattr(row, name) for name in names})], "default")
    assert written()[0]["response_body"] == row.response_body


def test_no_rows_are_no_statement(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert insert(Attempt, [], "default") == []


def test_what_the_database_refuses_is_raised(delivery):
    (row,) = attempts(delivery)
    row.request_headers = None
    with pytest.raises(IntegrityError):
        insert(Attempt, [row], "default")


# Rows that are nearly alike

NAMES = ("event", "subscription", "matched")


@pytest.fixture
def event() -> Event:
    return Event.objects.create(type="shop.order.created")


@pytest.fixture
def subscriptions() -> list[Subscription]:
    made = [Subscription(url="https://example.com/", name=str(number)) for number in range(5)]
    return Subscription.objects.bulk_create(made)


def add(like: Delivery, rows: list[tuple]) -> None:
    insert_alike(like, NAMES, rows, parent="subscription", using="default")


def test_each_row_has_its_own_values_and_all_have_those_of_the_instance(event, subscriptions):
    now = timezone.now()
    like = Delivery(created_at=now, completed_at=now, status="cancelled", reason="it's “%s”")
    texts = ["a'b", "", '{1,2}\\"', "ü €", "NULL"]
    add(like, [(event.pk, each.pk, text) for each, text in zip(subscriptions, texts, strict=True)])
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
    add(Delivery(), [(event.pk, one.pk, "after"), (event.pk, two.pk, "after")])
    found = Delivery.objects.order_by("subscription__name").values_list("matched", flat=True)
    assert list(found) == ["before", "after"]


def test_more_rows_alike_than_one_statement_takes_are_inserted_in_their_order(
    event, subscriptions, monkeypatch
):
    monkeypatch.setattr(inserts, "ROWS", 2)
    monkeypatch.setattr(inserts, "ARRAYED", 2)
    add(Delivery(), [(event.pk, each.pk, each.name) for each in subscriptions])
    found = Delivery.objects.order_by("pk").values_list("matched", flat=True)
    assert list(found) == ["0", "1", "2", "3", "4"]


def test_no_rows_alike_are_no_query(django_assert_num_queries):
    with django_assert_num_queries(0):
        add(Delivery(), [])


@pytest.mark.skipif(
    not connection.features.has_select_for_update,
    reason="on SQLite one transaction writes at a time",
)
def test_rows_whose_parent_is_gone_are_left_out(event, subscriptions):
    gone = uuid.uuid4()
    add(Delivery(), [(event.pk, gone, ""), (event.pk, subscriptions[0].pk, "")])
    assert Delivery.objects.get().subscription == subscriptions[0]
