"""How the outbox is doing: what waits, for how long, and whether a worker is alive."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from django_webhooks.models import Delivery, Event, Subscription, Watch, outbox_aliases


@dataclass(frozen=True)
class Health:
    """The state of one database's outbox."""

    using: str
    waiting_events: int
    """Events not fanned out yet."""
    due: int
    """Deliveries that could be sent now."""
    pending: int
    """Deliveries not ended, with those that wait for a retry or a paused subscription."""
    in_flight: int
    failed_today: int
    """Deliveries given up in the last 24 hours."""
    disabled: int
    """Subscriptions that are disabled."""
    lag: timedelta
    """The age of the oldest Event or Delivery that a worker should have taken."""
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
    oldest = [
        events.order_by("id").values_list("occurred_at", flat=True).first(),
        deliveries.due()
        .order_by("next_attempt_at")
        .values_list("next_attempt_at", flat=True)
        .first(),
    ]
    since = min((moment for moment in oldest if moment is not None), default=now)
    watch = Watch.objects.using(using).filter(name=Watch.DRAIN).first()
    return Health(
        using=using,
        waiting_events=events.count(),
        due=deliveries.due().count(),
        pending=deliveries.pending().count(),
        in_flight=deliveries.in_flight().count(),
        failed_today=deliveries.filter(
            status=Delivery.Status.FAILED, completed_at__gte=now - timedelta(days=1)
        ).count(),
        disabled=Subscription.objects.using(using)
        .filter(status=Subscription.Status.DISABLED)
        .count(),
        lag=max(now - since, timedelta(0)),
        worker_seen_at=watch.seen_at if watch else None,
    )
