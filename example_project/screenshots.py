"""Pictures of the admin over a week of the example's shop: make screenshots

Each page empty and full, light and dark, wide and as on a phone, into `build/screenshots/`; those
that the documentation shows into `docs/images/`, too. The history is made up, and the same each
time but for its moments. Needs a Chromium (`CHROMIUM=…` names another executable) and Playwright.
"""

import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ALL = HERE.parent / "build" / "screenshots"
IN_DOCS = HERE.parent / "docs" / "images"
STATE = Path(tempfile.mkdtemp(prefix="screenshots"))

os.environ.update(
    DJANGO_SETTINGS_MODULE="example_project.settings",
    EXAMPLE_STATE_DIR=str(STATE),
    DJANGO_ALLOW_ASYNC_UNSAFE="true",  # Playwright keeps an event loop in this thread
)

import django  # noqa: E402

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import reverse  # noqa: E402
from django.utils import timezone  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402
from shop.models import Customer, Order  # noqa: E402

from django_webhooks.models import Attempt, Delivery, Event, Subscription, Watch  # noqa: E402

EVENT_TYPE = "shop.order_placed"

WIDTHS = {"wide": 1280, "narrow": 375}
THEMES = ("light", "dark")

LISTS = ("deliveries", "events")
"""Whose beginning is enough."""

PARTS = {"rule": "#rules-group", "why": ".webhooks-table:has(.webhooks-whys)"}
"""Of these pages one part."""

BIG = {
    "all": [
        {"field": "total", "op": "gte", "value": 250},
        {
            "any": [
                {"field": "status", "op": "eq", "value": "paid"},
                {"not": {"field": "customer.email", "op": "endswith", "value": "@example.com"}},
            ]
        },
    ]
}

DOCUMENTED = {
    ("rule", "full", "light", "wide"): "admin-rule.png",
    ("rule", "full", "dark", "narrow"): "admin-rule-phone.png",
    ("why", "full", "light", "wide"): "admin-why.png",
    ("overview", "full", "light", "wide"): "admin-overview.png",
    ("subscriptions", "full", "light", "wide"): "admin-subscriptions.png",
    ("subscription", "full", "light", "wide"): "admin-subscription.png",
    ("recover", "full", "light", "wide"): "admin-recover.png",
    ("deliveries", "full", "light", "wide"): "admin-deliveries.png",
    ("delivery", "full", "light", "wide"): "admin-delivery.png",
    ("delivery", "full", "dark", "narrow"): "admin-delivery-phone.png",
}


def main() -> None:
    try:
        call_command("migrate", verbosity=0)
        with site() as url, sync_playwright() as playwright:
            names = ("chromium", "chromium-browser", "google-chrome")
            found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
            browser = playwright.chromium.launch(executable_path=found)
            staff = User.objects.create_superuser("staff")
            take(browser, url, staff, "empty", empty_pages())
            User.objects.all().delete()
            call_command("seed", hook="http://127.0.0.1:8001/receiver/hook/", stdout=io.StringIO())
            staff = User.objects.get(username="admin")
            take(browser, url, staff, "full", full_pages())
            browser.close()
    finally:
        shutil.rmtree(STATE)


@contextmanager
def site() -> Iterator[str]:
    """The example's site on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{url}/admin/login/", timeout=5)
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def take(browser: Browser, url: str, user: User, state: str, pages: dict[str, Any]) -> None:
    client = Client()
    client.force_login(user)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": url}
    ALL.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        for width, pixels in WIDTHS.items():
            viewport: Any = {"width": pixels, "height": 800}
            context = browser.new_context(
                base_url=url, viewport=viewport, color_scheme=theme, reduced_motion="reduce"
            )
            context.add_cookies([cookie])
            page = context.new_page()
            for name, (path, button) in pages.items():
                page.goto(path)
                if button:
                    page.get_by_role("button", name=button, exact=True).first.click()
                    page.wait_for_load_state("networkidle")
                file = ALL / f"{name}-{state}-{theme}-{width}.png"
                if part := PARTS.get(name):
                    if (tried := page.locator(".webhooks-tried details")).count():
                        tried.first.evaluate("each => each.open = true")
                    page.locator(part).screenshot(path=file)
                else:
                    page.screenshot(path=file, full_page=name not in LISTS)
                if documented := DOCUMENTED.get((name, state, theme, width)):
                    if name in PARTS:
                        shutil.copy(file, IN_DOCS / documented)
                        continue
                    page.screenshot(path=IN_DOCS / documented, full_page=name == "delivery")
            context.close()


def empty_pages() -> dict[str, tuple[str, str]]:
    return {
        "overview": (reverse("admin:django_webhooks_overview_changelist"), ""),
        **{
            f"{name}s" if name != "delivery" else "deliveries": (
                reverse(f"admin:django_webhooks_{name}_changelist"),
                "",
            )
            for name in ("subscription", "delivery", "event")
        },
    }


def full_pages() -> dict[str, tuple[str, str]]:
    """Addresses, and the button that is pressed there."""
    make_history()
    failing = Subscription.objects.get(name="Warehouse")
    well = Subscription.objects.get(name="Dashboard")
    big = Subscription.objects.create(name="Large orders", url=well.url)
    big.rules.create(event_type=EVENT_TYPE, conditions=BIG)
    tried = Delivery.objects.filter(subscription=failing, status="pending", attempt_count=3)
    delivery = tried.latest("pk")
    succeeded = Delivery.objects.filter(subscription=well, status="succeeded").latest("pk")

    def change(row: Any) -> str:
        return reverse(f"admin:django_webhooks_{row._meta.model_name}_change", args=[row.pk])

    return {
        **empty_pages(),
        "subscription": (change(failing), ""),
        "subscription-well": (change(well), ""),
        "rotate": (change(failing), "Rotate the secret"),
        "recover": (change(failing), "Recover what has failed"),
        "cancel": (change(failing), "Cancel what waits"),
        "delivery": (change(delivery), ""),
        "delivery-succeeded": (change(succeeded), ""),
        "event": (change(delivery.event), ""),
        "rule-new": (reverse("admin:django_webhooks_subscription_add"), ""),
        "rule": (change(big), "Try it on the last events"),
        "why": (change(delivery.event), ""),
    }


def make_history() -> None:
    """A week of orders, most of which arrived; one endpoint fails since yesterday."""
    chance, now = random.Random(7), timezone.now()
    Watch.objects.update_or_create(name=Watch.DRAIN, defaults={"seen_at": now})
    dashboard, warehouse, accounting, champagne = (
        Subscription.objects.get(name=name)
        for name in ("Dashboard", "Warehouse", "Accounting", "Champagne")
    )
    dashboard.rules.create(event_type=EVENT_TYPE)
    customer = Customer.objects.create(name="Ada Lovelace", email="ada@example.com")
    Order.objects.bulk_create(  # which publishes nothing
        [
            Order(pk=number + 1, number=f"A-{1000 + number}", customer=customer, total=100)
            for number in range(420)
        ],
        ignore_conflicts=True,
    )
    failing_since = now - timedelta(hours=9)
    for number in range(420):
        ago = timedelta(hours=(420 - number) * 168 / 420)
        for subscription in (dashboard, warehouse):
            fails = subscription == warehouse and now - ago > failing_since
            history = Made(subscription, number, now - ago, chance)
            if fails:
                history.keep_failing(now)
            elif chance.random() < 0.04:
                history.fail_once()
            else:
                history.succeed()
    Subscription.objects.filter(pk=warehouse.pk).update(
        failing_since=failing_since, failure_count=11, held_until=now + timedelta(minutes=14)
    )
    accounting.disable("The endpoint answered 410 Gone.")
    Subscription.objects.filter(pk=champagne.pk).update(status="completed")


class Made:
    """A delivery of an order's event, as it went."""

    def __init__(self, subscription: Subscription, number: int, at: Any, chance: Any) -> None:
        self.chance, self.at = chance, at
        order = Order(pk=number + 1, number=f"A-{1000 + number}")
        data = {"number": order.number, "status": "paid", "total": f"{chance.randint(9, 300)}.90"}
        body = json.dumps({"type": EVENT_TYPE, "timestamp": at.isoformat(), "data": data})
        self.event = Event(type=EVENT_TYPE, body=body, occurred_at=at, fanned_out_at=at)
        self.event.subject = order
        self.event.data = data
        self.event.save()
        self.delivery = Delivery.objects.create(
            event=self.event,
            subscription=subscription,
            matched=str(subscription.rules.get(event_type=EVENT_TYPE)),
            created_at=at + timedelta(seconds=1),
        )

    def succeed(self, at: Any = None) -> None:
        at = at or self.at + timedelta(seconds=1)
        self._attempt(at, 204, "", self.chance.lognormvariate(4, 0.6))
        self._end("succeeded", at)

    def fail_once(self) -> None:
        self._attempt(self.at + timedelta(seconds=1), None, "timeout", 15000)
        self.succeed(self.at + timedelta(seconds=22))

    def keep_failing(self, now: Any) -> None:
        for delay in (1, 7, 320):
            at = self.at + timedelta(seconds=delay)
            if at < now:
                self._attempt(at, 503, "status", self.chance.lognormvariate(4.5, 0.5))
        if now - self.at > timedelta(hours=6):
            self._end("failed", now - timedelta(hours=5), "HTTP 503")
        else:
            soon = now + timedelta(minutes=14, seconds=self.chance.randint(0, 600))
            rows = Delivery.objects.filter(pk=self.delivery.pk)
            rows.update(
                attempt_count=self.delivery.attempt_count, next_attempt_at=soon, reason="HTTP 503"
            )

    def _attempt(self, at: Any, code: int | None, error: str, duration: float) -> None:
        self.delivery.attempt_count += 1
        answered = code is not None
        Attempt.objects.create(
            delivery=self.delivery,
            number=self.delivery.attempt_count,
            started_at=at,
            duration_ms=round(duration),
            url=self.delivery.subscription.url,
            request_headers={
                "content-type": "application/json",
                "user-agent": "django-webhooks/0.1.0",
                "webhook-id": self.event.pk,
                "webhook-timestamp": str(int(at.timestamp())),
                "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
            },
            status_code=code,
            response_headers={"content-type": "application/json", "retry-after": "60"}
            if code == 503
            else {"date": f"{at:%a, %d %b %Y %H:%M:%S GMT}"}
            if answered
            else {},
            response_body='{"error":"maintenance","until":"14:00"}' if code == 503 else "",
            error=error,
            detail="The receiver answered with HTTP status 503."
            if code == 503
            else "No complete answer in time."
            if error
            else "",
        )

    def _end(self, status: str, at: Any, reason: str = "") -> None:
        Delivery.objects.filter(pk=self.delivery.pk).update(
            status=status,
            attempt_count=self.delivery.attempt_count,
            completed_at=at,
            reason=reason,
        )


if __name__ == "__main__":
    main()
