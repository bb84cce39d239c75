"""How the outbox is doing: what waits, for how long, and whether a worker is alive.

Monitoring asks this often, and most of all when much is waiting: so nothing is counted beyond
`MOST`, and everything is looked up by an index.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F
from django.db.models.functions import Coalesce, Greatest
from django.utils import timezone

from django_webhooks.claim import LEASE
from django_webhooks.models import Delivery, Event, Subscription, Watch, outbox_aliases

MOST = 10_000
"""A count stops here, and means "or more"."""


@dataclass(frozen=True)
class Health:
    """The state of one database's outbox. Counts end at `MOST`."""

    using: str
    waiting_events: int
    """Events not fanned out yet."""
    due: int
    """Deliveries that could be sent now: nothing holds their subscription back."""
    pending: int
    """Deliveries not ended, with those that wait for a retry or a paused subscription."""
    in_flight: int
    failed_today: int
    """Deliveries given up in the last 24 hours."""
    disabled: int
    """Subscriptions that are disabled."""
    lag: timedelta
    """For how long a worker could have taken the oldest Event or Delivery, and has not."""
    worker_seen_at: datetime | None

    @property
    def is_behind(self) -> bool:
        """Whether there is something that a worker should take now."""
        return bool(self.waiting_events or self.due)


def check_health() -> list[Health]:
    """The state of each database that holds the outbox. Raises what the database raises."""
    return [_check(using) for using in outbox_aliases()]


def _check(using: str) -> Health:
    now = timezone.now()
    deliveries = Delivery.objects.using(using)
    events = Event.objects.using(using).waiting()
    due = _due(using)
    leased = deliveries.in_flight().filter(next_attempt_at__range=(now, now + LEASE))
    failed = deliveries.filter(
        status=Delivery.Status.FAILED, completed_at__gte=now - timedelta(days=1)
    )
    disabled = Subscription.objects.using(using).filter(status=Subscription.Status.DISABLED)
    oldest = [
        events.order_by("id").values_list("occurred_at", flat=True).first(),
        min(due.order_by("next_attempt_at").values_list("since", flat=True)[:MOST], default=None),
    ]
    since = min((moment for moment in oldest if moment is not None), default=now)
    watch = Watch.objects.using(using).filter(name=Watch.DRAIN).first()
    return Health(
        using=using,
        waiting_events=_count(events),
        due=_count(due),
        pending=_count(deliveries.pending()),
        in_flight=_count(leased),
        failed_today=_count(failed),
        disabled=_count(disabled),
        lag=max(now - since, timedelta(0)),
        worker_seen_at=watch.seen_at if watch else None,
    )


def _due(using: str) -> Any:
    """What a worker may take, `since` when: due, or its lease has run out, and not held back.

    What has waited for its turn or for a broken endpoint is late only from then on.
    """
    held_back = Subscription.objects.using(using).held_back()
    own = F("next_attempt_at")
    return (
        Delivery.objects.using(using)
        .due()
        .exclude(subscription__in=list(held_back.values_list("pk", flat=True)))
        .annotate(
            since=Greatest(
                own,
                Coalesce("subscription__held_until", own),
                Coalesce("subscription__next_slot_at", own),
            )
        )
    )


def _count(rows: Any) -> int:
    return int(rows.order_by()[:MOST].count())
