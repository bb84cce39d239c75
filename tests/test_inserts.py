"""Rows that are written without instances: the same as by Django's own `bulk_create()`."""

from types import SimpleNamespace

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from django_webhooks.fanout import fan_out
from django_webhooks.inserts import insert
from django_webhooks.models import Attempt, Delivery
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
