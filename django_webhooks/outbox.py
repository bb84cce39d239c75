"""The outbox: an Event is written with the change that it tells of, and a worker is woken after.

Everything here happens in the caller's transaction or after its commit; nothing touches the
network but the wake, and a wake that fails is only logged.
"""

import logging
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from django.apps import apps
from django.db import connections, models, router, transaction
from django.utils import timezone

from django_webhooks import hops, payloads, signals
from django_webhooks.backends import get_backend
from django_webhooks.conf import settings
from django_webhooks.models import (
    UNANSWERED,
    Delivery,
    DeliveryQuerySet,
    Event,
    Rule,
    Subscription,
    database_now,
    label_of,
)
from django_webhooks.registry import CHALLENGE_EVENT, TEST_EVENT, registry
from django_webhooks.retries import on_contention

logger = logging.getLogger("django_webhooks")


MOST_AT_ONCE = 10_000
"""Deliveries that one request sends again; then it is asked again."""

BATCH = 500
"""Deliveries that are cancelled, or sent again, in one transaction: no worker waits for long."""

MAX_SUBJECT_ID_LENGTH = Event._meta.get_field("subject_id").max_length


def publish(
    event_type: str,
    data: Any,
    *,
    subject: models.Model | None = None,
    owner: Any = None,
    using: str | None = None,
) -> Event | None:
    """Record that something happened; the Event, or None when nobody listens.

    `data` is any JSON-able value, sent as it is. `owner` is an instance of `OWNER_MODEL`. The
    Event belongs to the transaction on `using` (default: the database that the subject is written
    to). Raises `UnknownEventType`, `PayloadError`, `PayloadTooLarge` and `TypeError`.
    """
    known = registry.require_type(event_type)
    using = using or (router.db_for_write(Event) if subject is None else _home_of(subject))
    event = compose(event_type, data, subject=subject, owner=owner)
    listening = is_listened_to(event_type, using)
    keep = known.webhook is not None and known.webhook.keep_events
    return write(event, using, listening=listening) if listening or keep else None


def redeliver(deliveries: Iterable[Delivery]) -> int:
    """Send them again: same event, same bytes, a new round of attempts. Returns how many.

    Those that wait for a retry are sent at once. Skipped are those in flight, and those whose
    subscription is gone.
    """
    by_alias: dict[str, list[Any]] = {}
    for delivery in deliveries:
        by_alias.setdefault(_home_of(delivery), []).append(delivery.pk)
    return sum(
        _redeliver(ids[start : start + BATCH], using)
        for using, ids in by_alias.items()
        for start in range(0, len(ids), BATCH)
    )


def recover(
    subscription: Subscription,
    since: datetime,
    *,
    until: datetime | None = None,
    dry_run: bool = False,
    most: int | None = None,
) -> int:
    """Redeliver what has failed of the events since then. Returns how many (would be).

    With `until` only of those before; with `most` so many, the oldest.
    """
    failed = failed_since(subscription, since)
    if until is not None:
        failed = failed.filter(event__occurred_at__lt=until)
    failed = failed.only("pk").order_by("pk")[:most]
    return failed.count() if dry_run else redeliver(failed)


def failed_since(subscription: Subscription, since: datetime) -> "models.QuerySet[Delivery]":
    return Delivery.objects.using(_home_of(subscription)).filter(
        subscription=subscription,
        status=Delivery.Status.FAILED,
        event__occurred_at__gte=since,
    )


def cancel_waiting(subscription: Subscription, reason: str) -> int:
    """End without a request what is pending and not in flight. Returns how many were."""
    rows = waiting_of(subscription)
    count = 0
    # What was left out was taken by a worker.
    while ids := list(rows.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        cancelled = on_contention(partial(rows.filter(pk__in=ids).cancel, reason), rows.db)
        if not cancelled:
            break
        count += cancelled
    return count


def waiting_of(subscription: Subscription) -> DeliveryQuerySet:
    """Its deliveries that are pending and not in flight."""
    return (
        Delivery.objects.using(_home_of(subscription))
        .pending()
        .filter(subscription=subscription, lease_token__isnull=True)
    )


def publish_test(subscription: Subscription) -> Delivery:
    """A test event for this subscription alone, past its rules. Returns the Delivery."""
    data = {"message": "This is a test event.", "subscription": str(subscription.pk)}
    event = compose(TEST_EVENT, data, owner=subscription.owner)
    return _publish_to(subscription, event)


def publish_challenge(subscription: Subscription) -> Delivery:
    """Disable it until its endpoint has answered a challenge, which is sent. Returns the Delivery.

    The endpoint answers by repeating `data.challenge`; see `delivery.answers()`.
    """
    token = secrets.token_urlsafe(32)
    event = compose(CHALLENGE_EVENT, {"challenge": token}, owner=subscription.owner)
    using = _home_of(subscription)
    with transaction.atomic(using=using):
        before = Delivery.objects.using(using).filter(
            subscription=subscription, event__type=CHALLENGE_EVENT
        )
        before.cancel("Another challenge was sent.")
        subscription.disable(UNANSWERED, challenge=event)
        return _publish_to(subscription, event)


def _publish_to(subscription: Subscription, event: Event) -> Delivery:
    using = _home_of(subscription)
    with transaction.atomic(using=using):
        write(event, using, listening=False)
        delivery = Delivery.objects.using(using).create(
            event=event, subscription=subscription, next_attempt_at=database_now(using)
        )
        if reason := event.why_cut(subscription.pk, subscription.owner_id):
            Delivery.objects.using(using).filter(pk=delivery.pk).cancel(reason)
        Subscription.objects.using(using).filter(pk=subscription.pk).let_through()
        wake_after_commit(using)
    delivery.refresh_from_db(using=using)
    return delivery


def is_listened_to(event_type: str, using: str) -> bool:
    """Whether an active rule names this type: one indexed query, never an old answer."""
    sql, parameters = _listening(event_type, using)
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone() is not None


@lru_cache(maxsize=1000)
def _listening(event_type: str, using: str) -> tuple[str, Sequence[Any]]:
    """The query of `is_listened_to()`, made once: to make it takes longer than to ask it."""
    rules = Rule.objects.using(using).listening_to(event_type)
    sql, parameters = rules.query.exists().get_compiler(using).as_sql()
    return sql, parameters


def compose(
    event_type: str,
    data: Any,
    *,
    action: str = "",
    previous: dict[str, Any] | None = None,
    subject: models.Model | None = None,
    owner: Any = None,
) -> Event:
    """An Event, not saved yet, with the exact body of its requests.

    `PayloadError` and `PayloadTooLarge` for data that can't be sent; `TypeError` for an `owner`
    of another model than `OWNER_MODEL`.
    """
    event = Event(type=event_type, action=action, owner_id=owner_id_of(owner))
    event.chain = hops.following()
    event.subject = subject
    event.data = payloads.to_json(data)
    event.previous = previous or {}
    sent = {"object": event.data, "previous": event.previous} if action else event.data
    event.body = payloads.make_body(event_type, event.occurred_at, sent, settings.MAX_PAYLOAD_BYTES)
    return event


def compose_failed(
    event_type: str, error: str, *, action: str, subject_type: str, subject_id: str
) -> Event:
    """An Event whose payload could not be rendered: kept to be seen, sent to nobody."""
    event = Event(
        type=event_type,
        action=action,
        subject_type=subject_type,
        subject_id=subject_id,
        error=error,
    )
    event.chain = hops.following()
    return event


def write(event: Event, using: str, *, listening: bool) -> Event:
    """Insert the Event into the current transaction; after its commit, tell and wake.

    With nobody listening, or with an `error`, it is written as fanned out already, and no worker
    is woken.
    """
    listening = listening and not event.error
    if not listening:
        event.fanned_out_at = timezone.now()
    # Enough to find most objects by; a longer key must not break the save.
    event.subject_id = event.subject_id[:MAX_SUBJECT_ID_LENGTH]
    event.save(using=using, force_insert=True)
    # Whoever publishes when told of an Event would be told of that one, too, and so for ever.
    if hops.SIGNAL not in event.through and signals.event_published.has_listeners(Event):
        transaction.on_commit(partial(_announce, event, using), using=using, robust=True)
    if listening:
        wake_after_commit(using)
    return event


def wake_after_commit(using: str) -> None:
    """Wake a worker once this transaction is committed: once, however many ask."""
    connection = connections[using]
    is_asked = any(
        getattr(function, "func", None) is wake for _, function, *_ in connection.run_on_commit
    )
    # The transaction of Django's TestCase never commits: what was asked in it may be over.
    in_test = any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    if not is_asked or in_test:
        transaction.on_commit(partial(wake, using), using=using, robust=True)


def wake(using: str) -> None:
    """Wake a worker now. Never raises: what is not sent now, the sweep will send."""
    try:
        get_backend().wake(using)
    except Exception:
        logger.exception(
            "No worker could be woken; nothing is lost, the next sweep delivers. Is the task "
            "queue's broker up?"
        )


def owner_id_of(owner: Any) -> Any:
    """The primary key of `owner`; `TypeError` if it is not an instance of `OWNER_MODEL`."""
    if owner is None:
        return None
    model = apps.get_model(settings.OWNER_MODEL)
    if not isinstance(owner, model):
        raise TypeError(
            f"The owner must be a {model._meta.label} (DJANGO_WEBHOOKS['OWNER_MODEL']) or None, "
            f"not {type(owner).__name__}."
        )
    return owner.pk


def _home_of(row: models.Model) -> str:
    """The database that `row` is written to, though it may have been read from a replica."""
    # Not type(row), which for a lazy object such as request.user is no model.
    return router.db_for_write(row.__class__, instance=row)


def _redeliver(ids: list[Any], using: str) -> int:
    with transaction.atomic(using=using):
        rows = Delivery.objects.using(using).filter(
            pk__in=ids, lease_token__isnull=True, subscription__isnull=False
        )
        hurried = rows.pending().update(next_attempt_at=database_now(using))
        count = hurried + rows.reopen()
        if count:
            asked = Subscription.objects.using(using).filter(pk__in=rows.values("subscription_id"))
            asked.let_through()
            wake_after_commit(using)
    return count


def _announce(event: Event, using: str) -> None:
    # A receiver that publishes goes on with the chain.
    with hops.caused_by(event.chain.passed_on_by(hops.SIGNAL)):
        signals.event_published.send_robust(sender=Event, event=event, using=using)


__all__ = [
    "cancel_waiting",
    "compose",
    "compose_failed",
    "label_of",
    "publish",
    "publish_challenge",
    "publish_test",
    "recover",
    "redeliver",
    "write",
]
