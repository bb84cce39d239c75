"""How long the admin's pages take over many deliveries: python -m tests.benchmarks.admin

On SQLite or DATABASE_URL, over ROWS=100000 deliveries, of which one in a hundred has failed and
half belong to one subscription. For each page the queries and the best of three times, with the
rendering. Makes and removes a test database.
"""

import os
import time
from urllib.parse import quote

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models.functions import Mod  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import (  # noqa: E402
    CaptureQueriesContext,
    setup_databases,
    setup_test_environment,
    teardown_databases,
)
from django.utils import timezone  # noqa: E402

from django_webhooks.models import Attempt, Delivery, Event, Subscription  # noqa: E402
from tests.tables import Tables  # noqa: E402

ROWS = int(os.environ.get("ROWS", "100000"))
TIMES = 3

DELIVERIES = "/admin/django_webhooks/delivery/"
EVENTS = "/admin/django_webhooks/event/"
SUBSCRIPTIONS = "/admin/django_webhooks/subscription/"


def fill() -> tuple[Subscription, Subscription]:
    """A busy subscription and one of the others."""
    tables = Tables()
    busy, *others = tables.subscribe(50)
    for each in (busy, *others):
        each.rules.create(event_type="shop.order.*")
    tables.settled(ROWS // 2, [busy])
    tables.settled(ROWS // 2, others)
    tables.due(1000, [busy])
    failed = Delivery.objects.annotate(rest=Mod("pk", 100)).filter(rest=0, status="succeeded")
    ids = list(failed.values_list("pk", flat=True))
    for at in range(0, len(ids), 500):
        some = ids[at : at + 500]
        Delivery.objects.filter(pk__in=some).update(
            status="failed", reason="HTTP 503", status_code=503
        )
        Attempt.objects.filter(delivery__in=some).update(error="status", status_code=503)
    rare = list(Event.objects.order_by("occurred_at").values_list("pk", flat=True)[:300])
    Event.objects.filter(pk__in=rare).update(type="shop.order.created")
    Subscription.objects.filter(pk=busy.pk).update(failing_since=timezone.now())
    tables.analyze()
    return busy, others[0]


def main() -> None:
    setup_test_environment()
    databases = setup_databases(verbosity=0, interactive=False, aliases=["default"])
    try:
        busy, other = fill()
        client = Client()
        client.force_login(User.objects.create_superuser("staff"))
        delivery = Delivery.objects.filter(status="failed").latest("pk")
        print(f"{ROWS:,} deliveries on {connection.vendor}")
        of_type = f"{DELIVERIES}?event_type=shop.order."
        today = quote(timezone.now().replace(hour=0, minute=0).isoformat())
        for name, url in {
            "overview": "/admin/django_webhooks/overview/",
            "subscriptions": SUBSCRIPTIONS,
            "a busy subscription": f"{SUBSCRIPTIONS}{busy.pk}/change/",
            "another subscription": f"{SUBSCRIPTIONS}{other.pk}/change/",
            "deliveries": DELIVERIES,
            "…, page 50": f"{DELIVERIES}?p=50",
            "…, failed": f"{DELIVERIES}?status__exact=failed",
            "…, succeeded": f"{DELIVERIES}?status__exact=succeeded",
            "…, HTTP 503": f"{DELIVERIES}?error=HTTP+503",
            "…, timeout (none)": f"{DELIVERIES}?error=timeout",
            "…, answered 503": f"{DELIVERIES}?http=503",
            "…, past hour": f"{DELIVERIES}?event__occurred_at__within=1h",
            "…, past hour and type": f"{of_type}updated&event__occurred_at__within=1h",
            "…, busy subscription": f"{DELIVERIES}?subscription__id__exact={busy.pk}",
            "…, other subscription": f"{DELIVERIES}?subscription__id__exact={other.pk}",
            "…, common type": f"{of_type}updated",
            "…, rare type": f"{of_type}created",
            "…, type and failed": f"{of_type}updated&status__exact=failed",
            "…, today": f"{DELIVERIES}?event__occurred_at__gte={today}",
            "…, today and type": f"{of_type}updated&event__occurred_at__gte={today}",
            "…, event's id": f"{DELIVERIES}?q={delivery.event_id}",
            "…, object": f"{DELIVERIES}?q=shop.order:1",
            "…, object in words": f"{DELIVERIES}?q=order+1",
            "…, URL of all": f"{DELIVERIES}?q=example.com",
            "…, URL of the busy": f"{DELIVERIES}?q=//0.example",
            "…, nothing found": f"{DELIVERIES}?q=nothing",
            "a delivery": f"{DELIVERIES}{delivery.pk}/change/",
            "events": EVENTS,
            "events, past hour": f"{EVENTS}?occurred_at__within=1h",
            "events, common type": f"{EVENTS}?event_type=shop.order.updated",
        }.items():
            measure(client, name, url)
    finally:
        teardown_databases(databases, verbosity=0)


def measure(client: Client, name: str, url: str) -> None:
    best, queries = float("inf"), 0
    for _ in range(TIMES):
        started = time.perf_counter()
        with CaptureQueriesContext(connection) as asked:
            response = client.get(url)
        best = min(best, time.perf_counter() - started)
        queries = len(asked)
        if response.status_code != 200:
            raise SystemExit(f"{url} answers {response.status_code}.")
    slowest = max(float(each["time"]) for each in asked)
    print(f"{name:<24}{queries:>4} queries {best * 1000:>8.0f} ms   slowest {slowest:.3f} s")


if __name__ == "__main__":
    main()
