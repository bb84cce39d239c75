"""How the endpoint of a subscription does, for its page and for the list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext

from django_webhooks.admin import display
from django_webhooks.admin.base import has_any
from django_webhooks.admin.charts import Chart, last_day, last_week
from django_webhooks.figures import MOST_WAITING, Sample, backlog_of, newest_of
from django_webhooks.models import Subscription

SHOWN_REASON = 80

Status = Subscription.Status


@dataclass(frozen=True)
class Tile:
    """A figure with its name."""

    name: str
    value: Any
    note: Any = ""
    kind: str = ""
    """`failed` for one that asks for attention."""


@dataclass(frozen=True)
class EndpointHealth:
    """What the template `health.html` shows of a subscription."""

    badges: SafeString
    reasons: Sequence[str]
    tiles: Sequence[Tile]
    charts: Sequence[Chart]


def of(site: Any, request: HttpRequest, subscription: Subscription) -> EndpointHealth:
    """At a glance: its status and why, its rates and times, what waits."""
    now = timezone.now()
    sample, backlog = newest_of(subscription), backlog_of(subscription)
    week = gettext("last 7 days")
    if sample.is_cut:
        week = gettext("since %s, of many attempts the newest") % display.plain_moment(sample.since)
    attempts = ngettext("%d attempt", "%d attempts", len(sample)) % len(sample)
    oldest = backlog.oldest_at and gettext("the oldest came %s") % display.age(backlog.oldest_at)
    rate = sample.success_rate
    tiles = [
        Tile(
            gettext("Success rate"),
            display.rate(rate),
            f"{attempts}, {week}",
            "failed" if rate is not None and rate < 1 / 2 else "",
        ),
        *durations(sample),
        Tile(gettext("Waiting"), display.count(backlog.count, MOST_WAITING), oldest or ""),
        Tile(
            gettext("Next attempt"),
            display.age(backlog.next_attempt_at) if backlog.next_attempt_at else "-",
            display.moment(backlog.next_attempt_at) if backlog.next_attempt_at else "",
        ),
    ]
    return EndpointHealth(
        badges=_badges(subscription),
        reasons=_reasons(subscription),
        tiles=tiles,
        charts=[last_day(sample, now), last_week(sample, now)],
    )


def durations(sample: Sample) -> list[Tile]:
    """How long requests take."""
    return [
        Tile(gettext("Median"), display.duration(sample.duration(50)), gettext("per request")),
        Tile(
            gettext("95th percentile"),
            display.duration(sample.duration(95)),
            gettext("95 of 100 are no slower"),
        ),
    ]


def status_and_trouble(subscription: Subscription) -> SafeString:
    """For a cell of the list: a dead endpoint must not look calm."""
    reason = ""
    if subscription.status == Status.DISABLED:
        reason = Truncator(subscription.disabled_reason).chars(SHOWN_REASON)
    elif subscription.failing_since:
        reason = gettext("for %s") % display.span(timezone.now() - subscription.failing_since)
    return display.two_lines(_badges(subscription), reason)


def deliveries_url(site: Any, request: HttpRequest, subscription: Subscription) -> str:
    """The list of its deliveries; empty for those who may not see it."""
    if not has_any(request, "delivery", "view", "change"):
        return ""
    url = reverse("admin:django_webhooks_delivery_changelist", current_app=site.name)
    return f"{url}?subscription__id__exact={subscription.pk}"


def _badges(subscription: Subscription) -> SafeString:
    status = display.badge(subscription.status, subscription.get_status_display())
    if subscription.failing_since and subscription.status != Status.DISABLED:
        return format_html("{} {}", status, display.badge("failed", gettext("failing")))
    return status


def _reasons(subscription: Subscription) -> list[str]:
    """Why it is as it is, and what to do."""
    found = []
    if subscription.status == Status.DISABLED:
        found.append(subscription.disabled_reason)
        found.append(
            gettext(
                "Nothing is sent, and new events are not matched. Mend the endpoint, re-enable "
                "the subscription, then recover what has failed."
            )
        )
    elif subscription.status == Status.PAUSED:
        found.append(
            gettext(
                "What is due waits until it is resumed; what happens meanwhile is not sent later."
            )
        )
    elif subscription.status == Status.COMPLETED:
        found.append(gettext("It was to fire once, and has."))
    if subscription.failing_since and subscription.status != Status.DISABLED:
        failures = subscription.failure_count
        found.append(
            ngettext(
                "Nothing but failures since %(since)s: %(count)d in a row.",
                "Nothing but failures since %(since)s: %(count)d in a row.",
                failures,
            )
            % {"since": display.plain_moment(subscription.failing_since), "count": failures}
        )
    if subscription.held_until and subscription.held_until > timezone.now():
        found.append(
            gettext("The endpoint is held back until %s, then tried with one request.")
            % display.plain_moment(subscription.held_until)
        )
    return [each for each in found if each]
