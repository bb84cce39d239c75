"""Claim, send, settle: a due Delivery becomes one request, and its result is written down.

Claim and settle are short transactions on the drain's thread. Send runs on many threads at once,
touches no database, and holds no transaction.
"""

import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.db import DatabaseError, transaction
from django.utils import timezone

from django_webhooks import __version__, signals, signing
from django_webhooks.conf import MAX_TIMEOUT, settings
from django_webhooks.encryption import Unreadable
from django_webhooks.exceptions import UnreadableSecret
from django_webhooks.models import Attempt, Delivery, Subscription
from django_webhooks.retries import next_delay, on_contention, parse_retry_after
from django_webhooks.transport import Exchange, Request, Transport, check_headers

logger = logging.getLogger("django_webhooks")

LEASE = timedelta(seconds=2 * MAX_TIMEOUT + 30)
"""Time to wait for a thread, to send, and to write the result."""

PER_SUBSCRIPTION = 4
"""Requests to one subscription at a time, so that a slow endpoint leaves threads to others."""

LOOKS = 4
"""How often a worker that always comes too late looks for other work before it waits."""

FINAL_ERRORS = frozenset({"blocked"})
"""Trying again would change nothing until a person has."""

GONE = 410
MASKED = "••••••"


@dataclass(frozen=True)
class Parcel:
    """All that sending needs, so that the thread that sends needs no database."""

    delivery: Delivery
    url: str
    headers: Mapping[str, str]
    secrets: Sequence[str]
    body: bytes
    timeout: float
    problem: str = ""
    """Why it can't be sent at all; empty if it can."""


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt."""

    delivery: Delivery
    exchange: Exchange
    started_at: datetime
    request_headers: Mapping[str, str]
    url: str


@dataclass
class Settled:
    """What `settle()` did, in numbers of deliveries."""

    succeeded: int = 0
    retried: int = 0
    failed: int = 0
    stale: int = 0

    def __add__(self, other: "Settled") -> "Settled":
        return Settled(
            self.succeeded + other.succeeded,
            self.retried + other.retried,
            self.failed + other.failed,
            self.stale + other.stale,
        )


# Claim


def claim(using: str, limit: int, in_flight: Mapping[Any, int]) -> list[Delivery]:
    """Take up to `limit` due Deliveries, leased to this worker and each counted as an attempt.

    `in_flight` counts what this worker has under way by subscription: those with
    `PER_SUBSCRIPTION` get no more.
    """
    token = uuid.uuid4()
    if not on_contention(partial(_lease, using, token, limit, in_flight), using):
        return []
    claimed = Delivery.objects.using(using).held_by(token).select_related("event", "subscription")
    sendable = [each for each in claimed if not _given_up(each, using)]
    return _within_rate(sendable, using)


def _lease(using: str, token: uuid.UUID, limit: int, in_flight: Mapping[Any, int]) -> int:
    """Look, then take by one conditional UPDATE: whoever else looked at the same rows gets none.

    So it needs no lock and no transaction, and is the same on every database. Who comes too late
    looks again, further down the queue.
    """
    rows = Delivery.objects.using(using)
    full = [key for key, count in in_flight.items() if count >= PER_SUBSCRIPTION]
    due = rows.due().exclude(subscription_id__in=full).order_by("next_attempt_at", "id").with_now()
    columns = ("pk", "subscription_id", "lease_token", "attempt_count", "now")
    for window in range(1, LOOKS + 1):
        candidates = list(due.values(*columns)[: limit * 4 * window])
        if window > 1:
            random.shuffle(candidates)
        chosen = _fairly(candidates, limit, in_flight)
        if not chosen:
            return 0
        ids = [row["pk"] for row in chosen]
        taken = rows.filter(pk__in=ids).lease(token, chosen[0]["now"] + LEASE)
        if taken:
            _record_abandoned([row for row in chosen if row["lease_token"]], token, using)
            return taken
    return 0


def _fairly(
    candidates: Iterable[dict[str, Any]], limit: int, in_flight: Mapping[Any, int]
) -> list[dict[str, Any]]:
    counts = Counter(in_flight)
    chosen: list[dict[str, Any]] = []
    for row in candidates:
        if counts[row["subscription_id"]] < PER_SUBSCRIPTION and len(chosen) < limit:
            counts[row["subscription_id"]] += 1
            chosen.append(row)
    return chosen


def _record_abandoned(rows: Sequence[dict[str, Any]], token: uuid.UUID, using: str) -> None:
    """A lease that ran out was an attempt, too, and perhaps a request: it is shown as one."""
    if not rows:
        return
    ours = set(Delivery.objects.using(using).held_by(token).values_list("pk", flat=True))
    Attempt.objects.using(using).bulk_create(
        Attempt(
            delivery_id=row["pk"],
            number=row["attempt_count"],
            started_at=row["now"] - LEASE,
            error="abandoned",
            detail="The worker that had begun it never wrote its result.",
        )
        for row in rows
        if row["pk"] in ours
    )


def _given_up(delivery: Delivery, using: str) -> bool:
    """Ends a delivery whose last attempt was abandoned: perhaps it is what kills the worker."""
    if delivery.round <= len(settings.RETRY_SCHEDULE) + 1:
        return False
    rows = Delivery.objects.using(using).filter(pk=delivery.pk, lease_token=delivery.lease_token)
    rows.update(attempt_count=delivery.attempt_count - 1)
    reason = "Given up: the last attempt was begun and its worker never reported back."
    if rows.complete(Delivery.Status.FAILED, timezone.now(), reason):
        delivery.refresh_from_db()
        signals.delivery_failed.send_robust(sender=Delivery, delivery=delivery, attempt=None)
    return True


def _within_rate(claimed: list[Delivery], using: str) -> list[Delivery]:
    """What `max_per_second` lets through now; the rest is put back for its turn."""
    kept = []
    for delivery in claimed:
        subscription = delivery.subscription
        if subscription is None or not subscription.max_per_second:
            kept.append(delivery)
            continue
        wait = _take_slot(subscription, using)
        if wait is None:
            kept.append(delivery)
        else:
            rows = Delivery.objects.using(using).filter(
                pk=delivery.pk, lease_token=delivery.lease_token
            )
            rows.release(wait)
    return kept


def _take_slot(subscription: Subscription, using: str) -> timedelta | None:
    """None when it is this subscription's turn, else how long to wait; one turn per 1/rate."""
    rows = Subscription.objects.using(using)
    turn = timedelta(seconds=1 / (subscription.max_per_second or 1))

    def take() -> timedelta | None:
        with transaction.atomic(using=using):
            row = rows.lock([subscription.pk]).with_now().first()
            if row is None:  # another worker is taking its turn
                return turn
            if row.next_slot_at is not None and row.next_slot_at > row.now:
                wait: timedelta = row.next_slot_at - row.now
                return wait
            # A turn that came a little late is not lost, or the rate would never be reached.
            start = max(row.next_slot_at or row.now, row.now - turn)
            rows.filter(pk=row.pk).update(next_slot_at=start + turn)
        return None

    return on_contention(take, using)


# Send


def pack(delivery: Delivery) -> Parcel:
    """The Delivery as a Parcel: the subscription as it is now, the event's bytes as ever.

    Never raises: a row that can't be read fails its own attempt, and stops no other.
    """
    try:
        return _pack(delivery)
    except Exception:
        logger.exception("Delivery %s can't be read.", delivery.pk)
        return Parcel(delivery, "", {}, (), b"", 0, problem="internal")


def _pack(delivery: Delivery) -> Parcel:
    subscription, event = delivery.subscription, delivery.event
    if subscription is None:
        return Parcel(delivery, "", {}, (), b"", 0, problem="cancelled")
    problem, secrets, custom = "", [], subscription.headers
    try:
        secrets = subscription.signing_secrets
    except UnreadableSecret:
        problem = "secret_unavailable"
    if isinstance(custom, Unreadable):
        problem, custom = "secret_unavailable", {}
    return Parcel(
        delivery=delivery,
        url=subscription.url,
        headers=custom,
        secrets=secrets,
        body=event.body.encode(),
        timeout=min(subscription.timeout or settings.TIMEOUT, MAX_TIMEOUT),
        problem=problem,
    )


def standard_headers(parcel: Parcel, timestamp: int) -> dict[str, str]:
    """The headers that every request bears (Standard Webhooks 1.0); `timestamp` in seconds."""
    event_id = parcel.delivery.event_id
    return {
        "content-type": "application/json",
        "user-agent": f"django-webhooks/{__version__}",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signing.sign(parcel.secrets, event_id, timestamp, parcel.body),
    }


def send(parcel: Parcel, transport: Transport) -> Outcome:
    """One request, signed now. Never raises: whatever goes wrong is an Outcome."""
    started_at = timezone.now()
    headers: dict[str, str] = {}
    try:
        if parcel.problem:
            exchange = _unsent(parcel.problem)
        else:
            check_headers(parcel.headers)  # the row may be older than the rule
            headers = standard_headers(parcel, int(time.time()))
            exchange = transport.send(
                Request(parcel.url, {**parcel.headers, **headers}, parcel.body, parcel.timeout)
            )
    except ValueError as error:
        exchange = _unsent("headers", str(error))
    except Exception as error:
        logger.exception("A delivery could not be sent.")
        exchange = _unsent("internal", type(error).__name__)
    shown = {**dict.fromkeys(parcel.headers, MASKED), **headers}
    return Outcome(parcel.delivery, exchange, started_at, shown, parcel.url)


def _unsent(error: str, detail: str = "") -> Exchange:
    return Exchange(
        status_code=None,
        headers={},
        body="",
        error=error,
        detail=detail,
        duration_ms=0,
        retry_after="",
    )


def make_transport() -> Transport:
    """The transport as the settings have it."""
    return Transport(
        allow_http=settings.ALLOW_HTTP,
        allowed_networks=settings.ALLOWED_NETWORKS,
        proxy=settings.PROXY,
        max_response_bytes=settings.MAX_RESPONSE_BYTES,
    )


# Settle


def settle(using: str, outcomes: Sequence[Outcome]) -> Settled:
    """Write what came of the attempts, each only if its lease is still held; then tell."""
    if not outcomes:
        return Settled()
    try:
        ledger = on_contention(partial(_write, using, outcomes), using)
    except DatabaseError:
        raise
    except Exception:
        if len(outcomes) > 1:  # one of them is poison: the others are written without it
            return sum((settle(using, [each]) for each in outcomes), Settled())
        logger.exception("The result of delivery %s can't be written.", outcomes[0].delivery.pk)
        return Settled()  # its lease runs out, which counts as an attempt
    ledger.announce()
    return ledger.counts


@dataclass(frozen=True)
class _Ended:
    """A delivery that has come to its end, and how."""

    delivery: Delivery
    attempt: Attempt
    status: Delivery.Status
    completed_at: datetime
    reason: str

    def announce(self) -> None:
        delivery = self.delivery
        delivery.status, delivery.completed_at = self.status, self.completed_at
        delivery.reason, delivery.next_attempt_at, delivery.lease_token = self.reason, None, None
        succeeded = self.status == Delivery.Status.SUCCEEDED
        signal = signals.delivery_succeeded if succeeded else signals.delivery_failed
        signal.send_robust(sender=Delivery, delivery=delivery, attempt=self.attempt)


@dataclass
class _Ledger:
    """What one `settle()` writes. Objects are changed and told of after its commit only, for
    until then it may have to be written once more."""

    counts: Settled = field(default_factory=Settled)
    ended: list[_Ended] = field(default_factory=list)
    disabled: list[Subscription] = field(default_factory=list)

    def announce(self) -> None:
        for each in self.ended:
            each.announce()
        for subscription in self.disabled:
            logger.warning(
                "Webhook subscription %s is disabled: %s",
                subscription.pk,
                subscription.disabled_reason,
            )
            signals.subscription_disabled.send_robust(
                sender=Subscription,
                subscription=subscription,
                reason=subscription.disabled_reason,
            )


def _write(using: str, outcomes: Sequence[Outcome]) -> _Ledger:
    ledger = _Ledger()
    rows = Delivery.objects.using(using)
    with transaction.atomic(using=using):
        locked = rows.lock([each.delivery.pk for each in outcomes]).with_now()
        held = {
            (pk, token): now for pk, token, now in locked.values_list("pk", "lease_token", "now")
        }
        attempts = [
            _attempt(each, (each.delivery.pk, each.delivery.lease_token) not in held)
            for each in outcomes
        ]
        Attempt.objects.using(using).bulk_create(attempts)
        current = [
            (outcome, attempt)
            for outcome, attempt in zip(outcomes, attempts, strict=True)
            if not attempt.stale
        ]
        ledger.counts.stale = len(outcomes) - len(current)
        if current:
            now = next(iter(held.values()))
            _write_succeeded(using, current, now, ledger)
            _write_failed(using, current, now, ledger)
            _write_health(using, current, now, ledger)
    return ledger


def _attempt(outcome: Outcome, stale: bool) -> Attempt:
    exchange = outcome.exchange
    return Attempt(
        delivery=outcome.delivery,
        number=outcome.delivery.attempt_count,
        started_at=outcome.started_at,
        duration_ms=exchange.duration_ms,
        url=outcome.url,
        request_headers=dict(outcome.request_headers),
        status_code=exchange.status_code,
        response_headers=dict(exchange.headers),
        response_body=exchange.body,
        error=exchange.error,
        detail=exchange.detail[:500],
        stale=stale,
    )


Current = Sequence[tuple[Outcome, Attempt]]


def _write_succeeded(using: str, current: Current, now: datetime, ledger: _Ledger) -> None:
    done = [(outcome, attempt) for outcome, attempt in current if not attempt.error]
    _complete(using, done, Delivery.Status.SUCCEEDED, now, "", ledger)
    ledger.counts.succeeded = len(done)


def _write_failed(using: str, current: Current, now: datetime, ledger: _Ledger) -> None:
    for outcome, attempt in current:
        if not attempt.error:
            continue
        delivery, reason = outcome.delivery, describe(attempt)
        delay = None if _is_final(attempt) else _delay(outcome, now)
        if delay is None:
            _complete(using, [(outcome, attempt)], Delivery.Status.FAILED, now, reason, ledger)
            ledger.counts.failed += 1
        else:
            rows = Delivery.objects.using(using).filter(pk=delivery.pk)
            rows.retry_at(now + timedelta(seconds=delay), reason)
            ledger.counts.retried += 1


def _is_final(attempt: Attempt) -> bool:
    return attempt.status_code == GONE or attempt.error in FINAL_ERRORS


def _delay(outcome: Outcome, now: datetime) -> float | None:
    return next_delay(
        outcome.delivery.round,
        settings.RETRY_SCHEDULE,
        retry_after=parse_retry_after(outcome.exchange.retry_after, datetime.now(UTC)),
        jitter=random.random(),  # noqa: S311
    )


def _complete(
    using: str,
    done: Current,
    status: Delivery.Status,
    now: datetime,
    reason: str,
    ledger: _Ledger,
) -> None:
    if not done:
        return
    reason = reason[:500]
    ids = [outcome.delivery.pk for outcome, _ in done]
    Delivery.objects.using(using).filter(pk__in=ids).complete(status, now, reason)
    ledger.ended += [
        _Ended(outcome.delivery, attempt, status, now, reason) for outcome, attempt in done
    ]


def _write_health(using: str, current: Current, now: datetime, ledger: _Ledger) -> None:
    """Since when an endpoint does nothing but fail; disabled when gone, or after too long."""
    succeeded = _subscriptions(outcome for outcome, attempt in current if not attempt.error)
    failed = _subscriptions(outcome for outcome, attempt in current if attempt.error)
    gone = _subscriptions(o for o, attempt in current if attempt.status_code == GONE)
    subscriptions = Subscription.objects.using(using)
    # As they were when claimed: a healthy subscription's row is not touched at all.
    recovered = [each.pk for each in succeeded.values() if each.failing_since is not None]
    if recovered:
        subscriptions.filter(pk__in=recovered).update(failing_since=None)
    begun = [each.pk for each in failed.values() if each.failing_since is None]
    begun = [pk for pk in begun if pk not in succeeded]
    if begun:
        subscriptions.filter(pk__in=begun, failing_since__isnull=True).update(failing_since=now)
    long_failing = failed.keys() - succeeded.keys() - gone.keys() - set(begun)
    if long_failing and settings.DISABLE_AFTER is not None:
        since = now - timedelta(seconds=settings.DISABLE_AFTER)
        for subscription in subscriptions.active().filter(
            pk__in=long_failing, failing_since__lte=since
        ):
            subscription.disable(
                f"Nothing but failures since {subscription.failing_since:%Y-%m-%d %H:%M} UTC."
            )
            ledger.disabled.append(subscription)
    for subscription in subscriptions.filter(pk__in=gone.keys()).exclude(
        status=Subscription.Status.DISABLED
    ):
        subscription.disable("The endpoint answered 410 Gone.")
        Delivery.objects.using(using).filter(subscription=subscription).cancel(
            "The endpoint answered 410 Gone to another delivery."
        )
        ledger.disabled.append(subscription)


def _subscriptions(outcomes: Iterable[Outcome]) -> dict[uuid.UUID, Subscription]:
    found = (outcome.delivery.subscription for outcome in outcomes)
    return {each.pk: each for each in found if each is not None}


def describe(attempt: Attempt) -> str:
    """Why an attempt failed, in one line: "HTTP 503", "timeout: no answer within 15 s"."""
    if attempt.status_code is not None and attempt.error in ("status", "redirect"):
        return f"HTTP {attempt.status_code}"
    return f"{attempt.error}: {attempt.detail}" if attempt.detail else attempt.error
