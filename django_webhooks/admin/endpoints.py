"""How the endpoint of a subscription does, for its page and for the list."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
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
from django_webhooks.incidents import ANSWERED_GONE
from django_webhooks.models import VOID, Subscription

SHOWN_REASON = 80

Status = Subscription.Status
STOPPED = (Status.PAUSED, Status.DISABLED)


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
    ]
    if subscription.challenge or subscription.status not in STOPPED:
        tiles.append(_next_attempt(subscription, backlog.next_attempt_at, now))
    return EndpointHealth(
        badges=_badges(subscription),
        reasons=_reasons(subscription),
        tiles=tiles,
        charts=[last_day(sample, now), last_week(sample, now)],
    )


def _next_attempt(subscription: Subscription, at: datetime | None, now: datetime) -> Tile:
    name = gettext("Next attempt")
    if at is None:
        return Tile(name, "-")
    at = max(at, subscription.held_until or at)
    return Tile(name, display.age(at) if at > now else gettext("due now"), display.moment(at))


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
        found += [
            subscription.disabled_reason,
            gettext("Nothing is sent, and new events are not matched."),
            _mend_of_disabled(subscription),
        ]
    elif subscription.status == Status.PAUSED:
        found.append(
            gettext(
                "What is due waits until it is resumed; what happens meanwhile is not sent later."
            )
        )
    elif subscription.status == Status.COMPLETED:
        found.append(gettext("It was to fire once, and has."))
    if subscription.failing_since and subscription.status != Status.DISABLED:
        # Without `failure_count`: retries do not count there, so no figure beside it would agree.
        since = display.plain_moment(subscription.failing_since)
        found.append(gettext("Its requests have failed since %s.") % since)
    if subscription.held_until and subscription.held_until > timezone.now():
        found.append(
            gettext("The endpoint is held back until %s, then tried with one request.")
            % display.plain_moment(subscription.held_until)
        )
    return [each for each in found if each]


def _mend_of_disabled(subscription: Subscription) -> str:
    """What to do, by what disabled it."""
    if subscription.owner_id is None and subscription.locked and not subscription.challenge:
        return gettext("Staff disabled it. Resume it when that is over.")
    if subscription.locked and subscription.challenge:
        return gettext(
            "Staff disabled it: its owner can't resume it. Nor has its endpoint answered a "
            "challenge: to resume it lifts the lock alone, and to resume it once more does "
            "without that answer."
        )
    if subscription.challenge == VOID:
        return gettext(
            "Its endpoint has not answered a challenge, and its owner has to ask for another. To "
            "resume it by hand is to do without that answer."
        )
    if subscription.challenge:
        return gettext(
            "Once its endpoint answers the signed challenge that it was sent, it is active by "
            "itself. To resume it by hand is to do without that answer."
        )
    if subscription.locked:
        return gettext("Staff disabled it: its owner can't resume it. Resume it when that is over.")
    if subscription.disabled_reason == ANSWERED_GONE:
        return gettext(
            "Its receiver asks for no more requests: ask who runs it. If that is so, delete the "
            "subscription; if not, resume it, then redeliver what was cancelled."
        )
    if subscription.failing_since:
        return gettext("Mend the endpoint, resume the subscription, then recover what has failed.")
    return gettext("Resume it when the reason is gone.")
