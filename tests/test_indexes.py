"""However many rows have settled, what is asked often reads few of them: EXPLAIN says so.

`ROWS=1000000` fills the tables as those of a large site; fewer are enough for a planner to prefer
an index, if there is one.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client

from django_webhooks import retention
from django_webhooks.claim import Claimer
from django_webhooks.fanout import fan_out
from django_webhooks.health import check_health
from django_webhooks.models import Attempt, Delivery, Event, Subscription, database_now
from django_webhooks.worker import seconds_to_near_work
from tests.tables import Tables

ROWS = int(os.environ.get("ROWS", "20000"))

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
    pytest.mark.timeout(120 + ROWS // 1000),
]

LARGE = {model._meta.db_table for model in (Delivery, Event, Attempt)}


@pytest.fixture
def large() -> Tables:
    """Most have settled; a long queue of one subscription, short ones of others."""
    tables = Tables()
    busy, *others = tables.subscribe(20)
    for each in (busy, *others):
        each.rules.create(event_type="*")
    tables.settled(ROWS, [busy, *others], days=1)
    tables.due(800, [busy])
    tables.due(200, others)
    tables.events(10, waiting=True)
    tables.analyze()
    return tables


def scans_of(work: Callable[[], object], *, newest_first: bool = False) -> list[str]:
    """The plans of `work`'s statements that read one of the large tables from end to end.

    With `newest_first`, walking along an index, or through a table without a condition, is right:
    the LIMIT ends it. (For the choices of a
    filter MariaDB may prefer to read a whole small index.)
    """
    asked: list[tuple[str, Any]] = []

    def record(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith(("SELECT", "UPDATE", "DELETE")) and any(table in sql for table in LARGE):
            asked.append((sql, params))
        return result

    with transaction.atomic(), connection.execute_wrapper(record):
        work()
        transaction.set_rollback(True)
    assert asked
    return [
        f"{scan}\n  {sql}"
        for sql, params in asked
        for scan in _scans(sql, params)
        if not (newest_first and " LIMIT " in sql and (_is_walk(scan) or " WHERE " not in sql))
    ]


def _scans(sql: str, params: Any) -> Iterator[str]:
    how = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute(f"{how} {sql}", params)
        rows = cursor.fetchall()
    for row in rows:
        if connection.vendor == "postgresql":
            found = re.search(r"Seq Scan on (\w+)", row[0])
        elif connection.vendor == "sqlite":
            found = re.match(r"SCAN (\w+)", row[3])
        else:
            found = re.match(r"(\w+) (ALL|index)$", f"{row[2]} {row[3]}")
        if found and found[1] in LARGE | _aliases(sql):
            yield str(row)


def _is_walk(scan: str) -> bool:
    return "'ALL'" not in scan and "Seq Scan" not in scan


def _aliases(sql: str) -> set[str]:
    """The names that the large tables, and no other, have in subqueries: U0, V1."""
    named = re.findall(r"[\"`](\w+)[\"`] ([A-Z]\d+)\b", sql)
    return {name for table, name in named if table in LARGE} - {
        name for table, name in named if table not in LARGE
    }


def test_what_workers_ask_is_answered_by_indexes(large):
    def claim():
        assert len(Claimer("default", 16).claim(16).deliveries) == 16

    assert scans_of(claim) == []
    assert scans_of(lambda: fan_out("default", 5)) == []
    assert scans_of(seconds_to_near_work) == []
    assert scans_of(check_health) == []


def test_looking_behind_a_queue_is_planned_for_few_rows_however_long_it_is():
    """What seems dear to PostgreSQL is compiled (JIT), which takes longer than to read it."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL compiles what it runs")
    tables = Tables()
    endpoints = tables.subscribe(10)

    def cost(due: int) -> float:
        tables.due(due, endpoints)
        tables.analyze()
        plan = Subscription.objects.with_something_due().explain(format="json")
        return json.loads(plan)[0]["Plan"]["Total Cost"]

    few, many = cost(1_000), cost(ROWS)
    assert many < 5 * few


def test_looking_behind_a_queue_reads_nothing_of_the_queue():
    """What a quiet subscription has due is older, or newer, than all that a busy one has."""
    tables = Tables()
    quiet, busy = tables.subscribe(2)
    tables.due(1, [quiet])
    tables.due(ROWS, [busy])
    tables.due(1, [quiet])
    tables.analyze()
    found = Subscription.objects.with_something_due()
    assert len(found) == 2
    assert "webhooks_delivery_status" in found.explain()


def test_prune_is_answered_by_indexes(large, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 100)
    days = 1 + ROWS / 2 / 86400

    def prune():
        ended = retention._ended("default", "succeeded", days)
        next(retention._prune_deliveries(ended))
        window = next(
            retention._windows(Event.objects.filter(occurred_at__lt=database_now("default")))
        )
        retention._bare(window)

    assert scans_of(prune) == []


def test_lists_of_deliveries_are_answered_by_indexes(large, settings):
    staff = User.objects.create_superuser("staff")
    client = Client()
    client.force_login(staff)
    busy = Subscription.objects.first()
    Subscription.objects.filter(pk=busy.pk).update(owner=staff)

    def get(url: str) -> Callable[[], object]:
        def ask():
            assert client.get(url).status_code == 200

        return ask

    admin = "/admin/django_webhooks/delivery/"
    # SQLite knows no more of a column than how often a value occurs on the average.
    by_error = (
        []
        if connection.vendor == "sqlite"
        else [
            f"{admin}?error=HTTP+503",
            f"{admin}?http=503",
        ]
    )
    for url in (
        *by_error,
        admin,
        f"{admin}?status__exact=pending",
        f"{admin}?subscription__id__exact={busy.pk}",
        f"{admin}?q=evt_{7:032}",
        f"{admin}?q=//7.example",
        "/admin/django_webhooks/event/",
        "/admin/django_webhooks/subscription/",
        "/admin/django_webhooks/overview/",
        "/webhooks/deliveries/",
        "/webhooks/deliveries/?status=failed",
        f"/webhooks/deliveries/?subscription={busy.pk}",
    ):
        assert scans_of(get(url), newest_first=True) == [], url
