"""The overview: how the whole app does, and whom to look after first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.apps.registry import Apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import models, router
from django.db.models import F, Q
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.admin import display
from django_webhooks.admin.base import OVERVIEW, may_see_overview
from django_webhooks.admin.charts import longest
from django_webhooks.admin.endpoints import Tile, durations, status_and_trouble
from django_webhooks.backends import get_backend
from django_webhooks.figures import Sample, newest
from django_webhooks.health import MOST, Health, check_health
from django_webhooks.models import Attempt, Subscription

ALIVE = timedelta(minutes=3)
"""A worker that was seen within it is alive: the sweep wakes one each minute."""

LATE = timedelta(minutes=1)
"""What is due for longer is a backlog, and no mere work in progress."""

SHOWN = 10
"""Subscriptions in each table."""

DAY = timedelta(days=1)

Status = Subscription.Status


@dataclass(frozen=True)
class Row:
    """A subscription in one of the tables."""

    name: str
    url: str
    status: SafeString
    success_rate: str
    median: str
    p95: str
    attempts: int


@dataclass(frozen=True)
class Outbox:
    """One database: its figures, and whether a worker is there."""

    using: str
    worker: str
    """`alive`, `behind` (seen, and something is late all the same), `missing` (something waits
    for one) or `idle` (nothing does); `needless` and `late` where the backend needs none, and
    something waits all the same.
    """
    seen_at: Any
    tiles: Sequence[Tile]


class Overview(models.Model):  # noqa: DJ008, there are no rows
    """What makes the admin's index list the overview beside the tables: it lists models only.

    No table stands behind it. In an app registry of its own it has no migration, no content type
    and no permission, either.
    """

    class Meta:
        apps = Apps()
        app_label = "django_webhooks"
        managed = False
        verbose_name = verbose_name_plural = _("overview")


class OverviewAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """One page, in the place of a list."""

    def get_urls(self) -> list[Any]:
        return [path("", self.admin_site.admin_view(self.changelist_view), name=OVERVIEW)]

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        return {"add": False, "change": False, "delete": False, "view": may_see_overview(request)}

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not may_see_overview(request):
            raise PermissionDenied
        site = self.admin_site
        context = {**site.each_context(request), **_context(site), "opts": Subscription._meta}
        return TemplateResponse(request, "admin/django_webhooks/overview.html", context)


def _context(site: Any) -> dict[str, Any]:
    now = timezone.now()
    sample = newest(router.db_for_read(Attempt))
    day = sample.after(now - DAY)
    return {
        "title": gettext("Webhooks overview"),
        "outboxes": [_outbox(each, now) for each in check_health()],
        "tiles": _tiles(day, now),
        "chart": longest(sample, now),
        "failing": _failing(site, day),
        "slowest": _slowest(site, day),
    }


def _outbox(health: Health, now: datetime) -> Outbox:
    seen_at = health.worker_seen_at
    is_alive = seen_at is not None and now - seen_at < ALIVE
    is_late = health.is_behind and health.lag > LATE
    counted = display.count(health.due + health.waiting_events, MOST)
    lag = gettext("the oldest for %s") % display.span(health.lag) if health.is_behind else ""
    needed = get_backend().needs_worker
    worker = (
        ("idle", "missing")[health.is_behind] if needed else ("needless", "late")[health.is_behind]
    )
    if is_alive and not is_late:
        worker = "alive"
    elif is_alive and needed:
        worker = "behind"
    return Outbox(
        using=health.using,
        worker=worker,
        seen_at=display.moment_and_age(seen_at) if seen_at else "",
        tiles=[
            Tile(
                gettext("Due"),
                counted,
                lag or gettext("nothing waits for a worker"),
                "failed" if is_late else "",
            ),
            Tile(
                gettext("Pending"),
                display.count(health.pending, MOST),
                gettext("with retries and what is paused"),
            ),
            Tile(
                gettext("In flight"),
                display.count(health.in_flight, MOST),
                gettext("being sent right now"),
            ),
            Tile(
                gettext("Given up"),
                display.count(health.failed_today, MOST),
                gettext("in the last 24 hours"),
                "failed" if health.failed_today else "",
            ),
            Tile(
                gettext("Disabled"),
                display.count(health.disabled, MOST),
                gettext("subscriptions"),
                "failed" if health.disabled else "",
            ),
        ],
    )


def _tiles(day: Sample, now: datetime) -> list[Tile]:
    """Of the last day, or of as many of its newest attempts as are counted."""
    stretch = gettext("in the last 24 hours")
    if day.is_cut and day.since > now - DAY:
        stretch = gettext("since %s") % display.plain_moment(day.since)
    minutes = max((now - max(day.since, now - DAY)).total_seconds() / 60, 1 / 60)
    attempts = ngettext("%d attempt", "%d attempts", len(day)) % len(day)
    failure_rate = None if day.success_rate is None else day.failed / len(day)
    return [
        Tile(
            gettext("Throughput"),
            gettext("%s per minute") % display.decimal(len(day) / minutes),
            f"{attempts} {stretch}",
        ),
        Tile(
            gettext("Failure rate"),
            display.rate(failure_rate),
            ngettext("%d attempt failed", "%d attempts failed", day.failed) % day.failed,
            "failed" if failure_rate and failure_rate >= 1 / 2 else "",
        ),
        *durations(day),
    ]


def _failing(site: Any, day: Sample) -> list[Row]:
    """Those in trouble, the longest first."""
    trouble = Q(failing_since__isnull=False) | Q(status=Status.DISABLED)
    rows = _bare(Subscription.objects.filter(trouble))
    found = rows.order_by(F("failing_since").asc(nulls_last=True), "pk")[:SHOWN]
    samples = day.by_subscription()
    return [_row(site, each, samples.get(each.pk)) for each in found]


def _slowest(site: Any, day: Sample) -> list[Row]:
    """By the 95th percentile of their requests."""
    samples = day.by_subscription()
    times = {pk: own.duration(95) for pk, own in samples.items()}
    slow = sorted((pk for pk in times if times[pk]), key=lambda pk: -(times[pk] or 0))[:SHOWN]
    found = _bare(Subscription.objects.all()).in_bulk(slow)
    return [_row(site, found[pk], samples[pk]) for pk in slow if pk in found]


def _bare(rows: Any) -> Any:
    return rows.defer("secrets", "headers")


def _row(site: Any, subscription: Subscription, sample: Sample | None) -> Row:
    sample = sample or Sample([], timezone.now())
    name = "admin:django_webhooks_subscription_change"
    return Row(
        name=str(subscription),
        url=reverse(name, args=[subscription.pk], current_app=site.name),
        status=status_and_trouble(subscription),
        success_rate=display.rate(sample.success_rate),
        median=display.duration(sample.duration(50)),
        p95=display.duration(sample.duration(95)),
        attempts=len(sample),
    )
