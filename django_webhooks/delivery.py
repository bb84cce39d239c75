"""Send and settle: a claimed Delivery becomes one request, and its result is written down.

Send runs on many threads at once, touches no database, and holds no transaction. Settle is one
short transaction on the drain's thread, and writes only what its lease still allows.
"""

import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.db import DatabaseError, transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from django_webhooks import __version__, hops, signals, signing
from django_webhooks.conf import MAX_TIMEOUT, settings
from django_webhooks.encryption import Unreadable
from django_webhooks.exceptions import UnreadableSecret
from django_webhooks.incidents import GONE, Incidents, Result, note_results
from django_webhooks.inserts import insert
from django_webhooks.models import Attempt, Delivery
from django_webhooks.registry import CHALLENGE_EVENT
from django_webhooks.retries import next_delay, on_contention, parse_retry_after
from django_webhooks.transport import MAX_IDLE, Exchange, Request, Transport, check_headers

logger = logging.getLogger("django_webhooks")

FINAL_ERRORS = frozenset({"blocked"})
"""Trying again would change nothing until a person has."""

MASKED = "••••••"
ECHOED = 8
"""Characters from which on a header's value is looked for in what comes back."""


@dataclass(frozen=True)
class Parcel:
    """All that sending needs, so that the thread that sends needs no database."""

    delivery: Delivery
    url: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    body: bytes = field(repr=False)
    timeout: float
    chain: hops.Chain = hops.NONE
    """What the receiver passes on."""
    challenge: str = ""
    """What the answer has to repeat; empty if nothing."""
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


@sensitive_variables()
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
        chain=_chain_after(delivery),
        challenge=event.data["challenge"] if event.type == CHALLENGE_EVENT else "",
        problem=problem,
    )


def _chain_after(delivery: Delivery) -> hops.Chain:
    """The chain of what happens because the subscription was told."""
    subscription, chain = delivery.subscription, delivery.event.chain
    if subscription is None:
        return chain
    return chain.passed_on_by(hops.mark_of(subscription.pk, subscription.owner_id))


def standard_headers(parcel: Parcel, timestamp: int) -> dict[str, str]:
    """The headers that every request bears: those of Standard Webhooks 1.0 and the hops.

    `timestamp` is in seconds.
    """
    event_id = parcel.delivery.event_id
    return {
        "content-type": "application/json",
        "user-agent": f"django-webhooks/{__version__}",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signing.sign(parcel.secrets, event_id, timestamp, parcel.body),
        hops.HEADER: hops.write_header(parcel.chain),
    }


@sensitive_variables()
def send(parcel: Parcel, transport: Transport) -> Outcome:
    """One request, signed now. Never raises: whatever goes wrong is an Outcome."""
    started_at = timezone.now()
    headers: dict[str, str] = {}
    custom: dict[str, str] = {}
    try:
        if parcel.problem:
            exchange = _unsent(parcel.problem)
        else:
            check_headers(parcel.headers)  # the row may be older than the rule
            custom = dict.fromkeys(parcel.headers, MASKED)
            headers = standard_headers(parcel, int(time.time()))
            exchange = transport.send(
                Request(parcel.url, {**parcel.headers, **headers}, parcel.body, parcel.timeout)
            )
    except ValueError as error:
        exchange = _unsent("headers", str(error))
    except Exception as error:
        logger.exception("A delivery could not be sent.")
        exchange = _unsent("internal", type(error).__name__)
    if parcel.challenge and not exchange.error and not answers(exchange.body, parcel.challenge):
        exchange = replace(exchange, error="challenge", detail="The answer does not repeat it.")
    exchange = _without_echo(exchange, parcel.headers)
    return Outcome(parcel.delivery, exchange, started_at, {**custom, **headers}, parcel.url)


def answers(body: str, challenge: str) -> bool:
    """Whether a response's body is the challenge, as plain text or as `{"challenge": "…"}`.

    No other: whoever sends back all that it gets has not understood the question.
    """
    try:
        return bool(json.loads(body) in (challenge, {"challenge": challenge}))
    except (ValueError, RecursionError):
        return body.strip() == challenge


def _without_echo(exchange: Exchange, headers: Any) -> Exchange:
    """The exchange with our credentials masked, should the receiver have sent them back."""
    values = headers.values() if isinstance(headers, Mapping) else ()
    secret = [value for value in values if isinstance(value, str) and len(value) >= ECHOED]

    def masked(text: str) -> str:
        for value in secret:
            text = text.replace(value, MASKED)
        return text

    if not secret:
        return exchange
    shown = {name: masked(value) for name, value in exchange.headers.items()}
    return replace(exchange, headers=shown, body=masked(exchange.body))


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
        max_idle=max(settings.CONCURRENCY, MAX_IDLE),
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
        if not signal.has_listeners(Delivery):
            return
        with hops.caused_by(_chain_after(delivery)):  # a receiver may save what is published
            signal.send_robust(sender=Delivery, delivery=delivery, attempt=self.attempt)


@dataclass
class _Ledger:
    """What one `settle()` writes. Objects are changed and told of after its commit only, for
    until then it may have to be written once more."""

    counts: Settled = field(default_factory=Settled)
    ended: list[_Ended] = field(default_factory=list)
    incidents: Incidents = field(default_factory=Incidents)

    def announce(self) -> None:
        for each in self.ended:
            each.announce()
        self.incidents.announce()


def _write(using: str, outcomes: Sequence[Outcome]) -> _Ledger:
    ledger = _Ledger()
    rows = Delivery.objects.using(using)
    with transaction.atomic(using=using):
        locked = rows.lock([each.delivery.pk for each in outcomes]).with_now()
        found = {
            pk: (token, now) for pk, token, now in locked.values_list("pk", "lease_token", "now")
        }
        # What was deleted while it was sent has no row to which an attempt could belong.
        told = [each for each in outcomes if each.delivery.pk in found]
        attempts = [
            _attempt(each, stale=found[each.delivery.pk][0] != each.delivery.lease_token)
            for each in told
        ]
        for attempt, pk in zip(attempts, insert(Attempt, attempts, using), strict=False):
            attempt.pk = pk
        current = [
            (outcome, attempt)
            for outcome, attempt in zip(told, attempts, strict=True)
            if not attempt.stale
        ]
        ledger.counts.stale = len(outcomes) - len(current)
        if current:
            now = next(now for _, now in found.values())
            _write_succeeded(using, current, now, ledger)
            _write_failed(using, current, now, ledger)
            ledger.incidents = _note_incidents(using, current, now)
    return ledger


def _attempt(outcome: Outcome, *, stale: bool) -> Attempt:
    exchange = outcome.exchange
    return Attempt(
        delivery=outcome.delivery,
        number=outcome.delivery.attempt_count,
        is_first=outcome.delivery.round == 1,
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
    for code in {attempt.status_code for _, attempt in done}:
        same = [(outcome, attempt) for outcome, attempt in done if attempt.status_code == code]
        _complete(using, same, Delivery.Status.SUCCEEDED, now, "", ledger)
    for outcome, _ in done:
        event, subscription = outcome.delivery.event, outcome.delivery.subscription
        if event.type == CHALLENGE_EVENT and subscription is not None:
            subscription.verify(event)
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
            when = now + timedelta(seconds=delay)
            rows.retry_at(when, reason, status_code=attempt.status_code)
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
    """Of attempts that were answered with the same HTTP status."""
    reason = reason[:500]
    ids = [outcome.delivery.pk for outcome, _ in done]
    code = done[0][1].status_code
    rows = Delivery.objects.using(using).filter(pk__in=ids)
    rows.complete(status, now, reason, status_code=code)
    ledger.ended += [
        _Ended(outcome.delivery, attempt, status, now, reason) for outcome, attempt in done
    ]


def _note_incidents(using: str, current: Current, now: datetime) -> Incidents:
    results = [
        Result(
            subscription=outcome.delivery.subscription,
            error=attempt.error,
            status_code=attempt.status_code,
            retry_after=outcome.exchange.retry_after,
            is_retry=outcome.delivery.round > 1,
        )
        for outcome, attempt in current
        if outcome.delivery.subscription is not None
    ]
    return note_results(results, now, using)


def describe(attempt: Attempt) -> str:
    """Why an attempt failed, in one line: "HTTP 503", "timeout: no answer within 15 s"."""
    if attempt.status_code is not None and attempt.error in ("status", "redirect"):
        return f"HTTP {attempt.status_code}"
    return f"{attempt.error}: {attempt.detail}" if attempt.detail else attempt.error
