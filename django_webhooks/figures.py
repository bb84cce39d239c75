"""How endpoints do, in numbers: the newest attempts, and what they come to.

However many there were, no more than `MOST_ATTEMPTS` are read, along an index. Percentiles and
bars are computed here and not by the database, so that they are the same on each.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Count, Min, Q
from django.utils import timezone

from django_webhooks.models import Attempt, Delivery, Subscription

MOST_ATTEMPTS = 5_000
"""Attempts that are read of each status of a subscription's deliveries, or of all of them."""

MOST_WAITING = 10_000
"""A count of what waits stops here, and means "or more"."""

WINDOW = timedelta(days=7)
"""No figure of a subscription looks further back."""

UNSENT = ("blocked", "headers", "secret_unavailable", "abandoned", "cancelled", "internal")
"""Errors of attempts of which no request tells how long the endpoint takes."""

Status = Delivery.Status


class Tried(NamedTuple):
    """What the figures need of an attempt."""

    started_at: datetime
    duration_ms: int
    error: str
    subscription_id: Any


COLUMNS = ("started_at", "duration_ms", "error", "delivery__subscription")


@dataclass(frozen=True)
class Bar:
    """The attempts that began in a stretch of time."""

    start: datetime
    succeeded: int
    failed: int

    @property
    def total(self) -> int:
        return self.succeeded + self.failed


@dataclass(frozen=True)
class Sample:
    """All attempts since a moment, newest first. `is_cut`: there were more before, too many."""

    attempts: Sequence[Tried]
    since: datetime
    is_cut: bool = False

    def __len__(self) -> int:
        return len(self.attempts)

    def after(self, moment: datetime) -> "Sample":
        """Those since `moment`; all if the sample does not reach back so far."""
        if moment <= self.since:
            return self
        return Sample([each for each in self.attempts if each.started_at >= moment], moment)

    def by_subscription(self) -> dict[Any, "Sample"]:
        """One of each subscription that was not deleted since."""
        found: dict[Any, list[Tried]] = {}
        for each in self.attempts:
            if each.subscription_id is not None:
                found.setdefault(each.subscription_id, []).append(each)
        return {pk: Sample(own, self.since, self.is_cut) for pk, own in found.items()}

    @property
    def failed(self) -> int:
        return sum(bool(each.error) for each in self.attempts)

    @property
    def success_rate(self) -> float | None:
        """From 0 to 1; None without attempts."""
        return 1 - self.failed / len(self) if self.attempts else None

    def duration(self, percent: int) -> int | None:
        """Milliseconds within which that many in a hundred requests ended; None without any."""
        return percentile(
            [each.duration_ms for each in self.attempts if each.error not in UNSENT], percent
        )

    def bars(self, end: datetime, width: timedelta, count: int) -> list[Bar]:
        """`count` stretches of time, each `width` long, the last one up to `end`."""
        start = end - width * count
        succeeded, failed = [0] * count, [0] * count
        for each in self.attempts:
            place = (each.started_at - start) // width
            if 0 <= place < count:
                (failed if each.error else succeeded)[place] += 1
        return [
            Bar(start + width * place, succeeded[place], failed[place]) for place in range(count)
        ]


def percentile(values: Iterable[int], percent: int) -> int | None:
    """The nearest rank: one of the values, not below `percent` in a hundred of them."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def newest(using: str) -> Sample:
    """The newest attempts of all subscriptions, however old."""
    rows = Attempt.objects.using(using).filter(stale=False).order_by("-pk")
    found = [Tried(*row) for row in rows.values_list(*COLUMNS)[:MOST_ATTEMPTS]]
    is_cut = len(found) == MOST_ATTEMPTS
    since = found[-1].started_at if is_cut else timezone.now() - 10 * WINDOW
    return Sample(found, since, is_cut)


def newest_of(subscription: Subscription) -> Sample:
    """The attempts of one subscription in the last seven days, or the newest of them."""
    start = timezone.now() - WINDOW
    found = _of_waiting(subscription, start)
    cut_at = [start]
    for status in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED):
        rows = list(_of_ended(subscription, status, start))
        if len(rows) == MOST_ATTEMPTS:
            # What was left out had ended before, so it began before.
            cut_at.append(rows[-1][-1])
        found += [Tried(*row[:-1]) for row in rows]
    since = max(cut_at)
    found = [each for each in found if each.started_at >= since]
    return Sample(sorted(found, key=_began, reverse=True), since, is_cut=since > start)


def _of_ended(subscription: Subscription, status: str, start: datetime) -> Iterator[Any]:
    """Along the index by subscription, status and completion; that moment is the last column."""
    rows = Attempt.objects.using(subscription._state.db).filter(
        delivery__subscription=subscription,
        delivery__status=status,
        delivery__completed_at__gte=start,
        started_at__gte=start,
        stale=False,
    )
    newest_first = rows.order_by("-delivery__completed_at")
    yield from newest_first.values_list(*COLUMNS, "delivery__completed_at")[:MOST_ATTEMPTS]


def _of_waiting(subscription: Subscription, start: datetime) -> list[Tried]:
    """Of what waits for another attempt; of a long backlog, of its beginning alone."""
    using = subscription._state.db
    pending = Delivery.objects.using(using).pending().filter(subscription=subscription)
    counts = pending.order_by().values_list("pk", "attempt_count")[:MOST_ATTEMPTS]
    tried = [pk for pk, attempts in counts if attempts]
    rows = Attempt.objects.using(using).filter(
        delivery__in=tried, started_at__gte=start, stale=False
    )
    return [Tried(*row) for row in rows.order_by().values_list(*COLUMNS)[:MOST_ATTEMPTS]]


def _began(attempt: Tried) -> datetime:
    return attempt.started_at


@dataclass(frozen=True)
class Backlog:
    """What waits for one subscription. The count ends at `MOST_WAITING`."""

    count: int
    oldest_at: datetime | None
    """When the oldest of them was fanned out."""
    next_attempt_at: datetime | None
    """When the next of those that are not in flight is due."""


def backlog_of(subscription: Subscription) -> Backlog:
    """What is pending for the subscription."""
    rows = Delivery.objects.using(subscription._state.db).pending()
    some = rows.filter(subscription=subscription).order_by()[:MOST_WAITING]
    return Backlog(
        **some.aggregate(
            count=Count("pk"),
            oldest_at=Min("created_at"),
            next_attempt_at=Min("next_attempt_at", filter=Q(lease_token__isnull=True)),
        )
    )
