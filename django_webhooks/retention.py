"""How long rows are kept. What has not ended is never pruned.

Old rows are looked up by an index, in the order of their time, a batch after the other, and each
batch is deleted in a short transaction of its own. Nothing is remembered between two runs: what
an interrupted one left is what the next one finds.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from django_webhooks.conf import settings
from django_webhooks.models import Delivery, Event, outbox_aliases
from django_webhooks.retries import on_contention

logger = logging.getLogger("django_webhooks")

BATCH = 1000
"""Rows changed in one transaction, so that nobody waits long for a lock."""

ENDED = {
    Delivery.Status.SUCCEEDED: "succeeded",
    Delivery.Status.FAILED: "failed",
    Delivery.Status.CANCELLED: "failed",
}

BARE = "events without a delivery"


def prune() -> Iterator[tuple[str, int]]:
    """Delete what `RETENTION` lets go, a batch at a time; yields what, and how many rows.

    May be interrupted after any batch and run again. A batch may have been of no row.
    """
    for using in outbox_aliases():
        _cancel_orphans(using)
        events = _old_events(using)
        for status, key in ENDED.items():
            ended = _ended(using, status, settings.RETENTION[key])
            for count, touched in _prune_deliveries(ended):
                yield f"{status} deliveries", count
                yield BARE, _delete(events, _bare(events.filter(pk__in=touched)))
        # Those no rule fired on. The newest first: what is older has been looked at before.
        for window in _windows(events):
            bare = _bare(window)
            for at in range(0, len(bare) or 1, BATCH):
                yield BARE, _delete(events, bare[at : at + BATCH])


def _cancel_orphans(using: str) -> None:
    """End what waits for a subscription that was deleted past Django, by SQL or `_raw_delete()`.

    Nothing would ever send it, and what has not ended is kept for ever.
    """
    orphans = Delivery.objects.using(using).pending().filter(subscription__isnull=True)
    while ids := list(orphans.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        orphans.filter(pk__in=ids).cancel("The subscription was deleted.")


def prune_for(seconds: float) -> bool:
    """Prune for about that long. Returns whether to go on, for there is more. Does not raise."""
    until = time.monotonic() + seconds
    deleted = 0
    try:
        for _, count in prune():
            deleted += count
            if time.monotonic() >= until:
                return deleted > 0
    except Exception:
        logger.exception("Old rows could not be pruned; the next run tries again.")
    return False


def _ended(using: str, status: str, days: float | None) -> Any:
    rows = Delivery.objects.using(using).filter(status=status)
    return rows.none() if days is None else rows.filter(completed_at__lt=_before(days))


def _old_events(using: str) -> Any:
    days = settings.RETENTION["unmatched"]
    rows = Event.objects.using(using).filter(fanned_out_at__isnull=False)
    return rows.none() if days is None else rows.filter(occurred_at__lt=_before(days))


def _bare(events: Any) -> list[str]:
    """The ids of those without a delivery: no rule fired on them, or all have been pruned."""
    deliveries = Delivery.objects.using(events.db).filter(event=models.OuterRef("pk"))
    return list(events.filter(~models.Exists(deliveries)).values_list("pk", flat=True))


def _before(days: float) -> Any:
    return timezone.now() - timedelta(days=days)


def _prune_deliveries(ended: Any) -> Iterator[tuple[int, set[str]]]:
    """How many were deleted, and of which events, a batch at a time."""
    oldest = ended.order_by("completed_at").values_list("pk", "event_id")
    while batch := list(oldest[:BATCH]):
        count = _delete(ended, [pk for pk, _ in batch])
        if not count:
            break  # all are held by others: a task for the next run
        yield count, {event for _, event in batch}


def _windows(events: Any) -> Iterator[Any]:
    """The events, a thousand at a time, from the newest to the oldest."""
    rest = events
    while begin := list(
        rest.order_by("-occurred_at").values_list("occurred_at")[BATCH - 1 : BATCH]
    ):
        yield rest.filter(occurred_at__gte=begin[0][0])
        rest = events.filter(occurred_at__lt=begin[0][0])
    yield rest


def _delete(rows: Any, ids: Sequence[Any]) -> int:
    """Delete those of `rows` that nobody else holds; how many it were.

    The lock is what keeps a delivery that somebody sends again in this very moment.
    """

    def delete() -> int:
        with transaction.atomic(using=rows.db):
            locked = list(rows.lock(ids, skip_locked=True).values_list("pk", flat=True))
            # Django's own delete, for the project's tables may refer to ours. Of each row it
            # loads the key alone; attempts it loads not at all.
            rows.model.objects.using(rows.db).filter(pk__in=locked).only("pk").delete()
        return len(locked)

    return on_contention(delete, rows.db) if ids else 0
