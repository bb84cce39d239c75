"""How an endpoint does: since when it fails, when it is held back, when it is disabled.

Written by `delivery.settle()` in its transaction, told after the commit. An incident begins with
`OPEN_AFTER` failures in a row and ends with the first success: each is told once, however many
workers there are.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django_webhooks import signals
from django_webhooks.conf import settings
from django_webhooks.models import Delivery, Subscription
from django_webhooks.retries import MAX_RETRY_AFTER, OPEN_AFTER, hold, parse_retry_after

logger = logging.getLogger("django_webhooks")

GONE = 410
ANSWERED_GONE = "The endpoint answered 410 Gone."
BUSY = (429, 503)
"""Statuses whose `Retry-After` is meant for the whole endpoint (RFC 6585, RFC 9110 15.6.4)."""


@dataclass(frozen=True)
class Result:
    """What an attempt tells of its endpoint."""

    subscription: Subscription
    """As it was when the attempt began."""
    error: str
    status_code: int | None
    retry_after: str
    is_retry: bool


@dataclass
class Incidents:
    """What has to be told once the transaction is committed."""

    failing: list[Subscription] = field(default_factory=list)
    recovered: list[Subscription] = field(default_factory=list)
    disabled: list[Subscription] = field(default_factory=list)

    def announce(self) -> None:
        for each in self.failing:
            logger.warning("Webhook subscription %s keeps failing and is held back.", each.pk)
            signals.subscription_failing.send_robust(sender=Subscription, subscription=each)
        for each in self.recovered:
            logger.info("Webhook subscription %s has recovered.", each.pk)
            signals.subscription_recovered.send_robust(sender=Subscription, subscription=each)
        for each in self.disabled:
            reason = each.disabled_reason
            logger.warning("Webhook subscription %s is disabled: %s", each.pk, reason)
            signals.subscription_disabled.send_robust(
                sender=Subscription, subscription=each, reason=reason
            )


def note_results(results: Sequence[Result], now: datetime, using: str) -> Incidents:
    """Write what the results mean for their subscriptions.

    In one order, so that two workers never wait for each other. The row of a subscription that
    does well, and did so before, is not touched at all.
    """
    incidents = Incidents()
    by_subscription: dict[Subscription, list[Result]] = {}
    for each in results:
        by_subscription.setdefault(each.subscription, []).append(each)
    rows = Subscription.objects.using(using)
    # As it is now: others may have failed since these attempts began.
    ailing = set(
        rows.filter(pk__in={each.subscription.pk for each in results if not each.error})
        .exclude(failure_count=0, failing_since=None)
        .values_list("pk", flat=True)
    )
    for subscription in sorted(by_subscription, key=lambda each: each.pk):
        found = by_subscription[subscription]
        if any(each.status_code == GONE for each in found):
            _disable_gone(rows.filter(pk=subscription.pk), incidents)
        elif any(not each.error for each in found):
            if subscription.pk in ailing:
                _note_success(rows.filter(pk=subscription.pk), incidents)
        else:
            _note_failures(rows.lock([subscription.pk]), found, now, incidents)
    return incidents


def _note_success(row: Any, incidents: Incidents) -> None:
    healthy = {"failing_since": None, "failure_count": 0, "held_until": None}
    if row.filter(failure_count__gte=OPEN_AFTER).update(**healthy):
        incidents.recovered += row
    else:
        row.update(**healthy)


def _note_failures(
    row: Any, results: Sequence[Result], now: datetime, incidents: Incidents
) -> None:
    """Nothing but failures: count them, hold the endpoint back, and at last disable it."""
    subscription = row.first()
    if subscription is None:
        return
    was_open = subscription.is_open
    # A retry keeps to its own schedule, so it counts only as the probe that it is.
    counted = sum(1 for each in results if was_open or not each.is_retry)
    holds = [subscription.held_until] if subscription.held_until else []
    subscription.failing_since = subscription.failing_since or now
    subscription.failure_count += counted
    if subscription.is_open and counted:
        seconds = hold(subscription.failure_count, random.random())  # noqa: S311
        holds = [now + timedelta(seconds=seconds)]
    holds += [now + timedelta(seconds=each) for each in map(_asked_to_wait, results) if each]
    subscription.held_until = max(holds, default=None)
    subscription.save(update_fields=["failing_since", "failure_count", "held_until"])
    if subscription.is_open and not was_open:
        incidents.failing.append(subscription)
    _disable_at_last(subscription, now, incidents)


def _disable_at_last(subscription: Subscription, now: datetime, incidents: Incidents) -> None:
    since, limit = subscription.failing_since, settings.DISABLE_AFTER
    if limit is None or since is None or now - since < timedelta(seconds=limit):
        return
    reason = f"Nothing but failures since {since:%Y-%m-%d %H:%M} UTC."
    if subscription.disable(reason, only_from=[Subscription.Status.ACTIVE]):
        incidents.disabled.append(subscription)


def _asked_to_wait(result: Result) -> float | None:
    """Seconds for which an endpoint that has too much to do wants no request at all."""
    if result.status_code not in BUSY:
        return None
    asked = parse_retry_after(result.retry_after, datetime.now(UTC))
    return asked and min(asked, MAX_RETRY_AFTER)


def _disable_gone(row: Any, incidents: Incidents) -> None:
    status = Subscription.Status
    # What was disabled meanwhile stays so: resuming from that may need more than its owner.
    still_open = [status.ACTIVE, status.PAUSED, status.COMPLETED]
    for subscription in row:
        if not subscription.disable(ANSWERED_GONE, only_from=still_open):
            continue
        Delivery.objects.using(row.db).filter(subscription=subscription).cancel(
            "The endpoint answered 410 Gone to another delivery."
        )
        incidents.disabled.append(subscription)
