"""How long rows are kept. What has not ended is never pruned."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db import models
from django.utils import timezone

from django_webhooks.conf import settings
from django_webhooks.models import Delivery, Event, outbox_aliases

BATCH = 1000
"""Rows changed in one transaction, so that nobody waits long for a lock."""

ENDED = {
    Delivery.Status.SUCCEEDED: "succeeded",
    Delivery.Status.FAILED: "failed",
    Delivery.Status.CANCELLED: "failed",
}


def prune() -> Iterator[tuple[str, int]]:
    """Delete what `RETENTION` lets go, a batch at a time; yields what, and how many rows.

    May be interrupted after any batch and run again.
    """
    for using in outbox_aliases():
        _cancel_orphans(using)
        for status, key in ENDED.items():
            days = settings.RETENTION[key]
            if days is not None:
                ended = Delivery.objects.using(using).filter(
                    status=status, completed_at__lt=timezone.now() - timedelta(days=days)
                )
                yield from _delete(ended, f"{status} deliveries")
        days = settings.RETENTION["unmatched"]
        if days is not None:
            yield from _delete(_bare_events(using, days), "events without a delivery")


def _cancel_orphans(using: str) -> None:
    """End what waits for a subscription that was deleted past Django, by SQL or `_raw_delete()`.

    Nothing would ever send it, and what has not ended is kept for ever.
    """
    orphans = Delivery.objects.using(using).pending().filter(subscription__isnull=True)
    for ids in _batches(orphans):
        orphans.filter(pk__in=ids).cancel("The subscription was deleted.")


def _bare_events(using: str, days: float) -> "models.QuerySet[Event]":
    """Events no rule fired on, and those whose deliveries have all been pruned."""
    return Event.objects.using(using).filter(
        ~models.Exists(Delivery.objects.using(using).filter(event=models.OuterRef("pk"))),
        fanned_out_at__isnull=False,
        occurred_at__lt=timezone.now() - timedelta(days=days),
    )


def _delete(rows: "models.QuerySet[Any]", what: str) -> Iterator[tuple[str, int]]:
    for ids in _batches(rows):
        rows.filter(pk__in=ids).delete()
        yield what, len(ids)


def _batches(rows: "models.QuerySet[Any]") -> Iterator[list[Any]]:
    """Ids of those of `rows` that are left; whoever asks on has done something to them."""
    while ids := list(rows.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        yield ids
