"""Which Deliveries are next, and they are this worker's: due, fair, within each one's limits.

A claim is two short statements, the same on every database: look at what is due, then take it by
one conditional UPDATE. Whoever else looked at the same rows gets none of them, so there is no
lock and no transaction. Taking counts the attempt: a payload that kills its worker comes to an
end as well.

Fairness: who has the fewest requests in flight comes first. A subscription begins with one at a
time and is given more while it answers well, so whoever is slow or dead holds few of the worker's
places. Where a long queue hides the others, they are looked for behind it.
"""

import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from django.db import models, transaction
from django.utils import timezone

from django_webhooks import signals
from django_webhooks.conf import MAX_TIMEOUT, settings
from django_webhooks.models import Attempt, Delivery, Subscription
from django_webhooks.retries import on_contention

logger = logging.getLogger("django_webhooks")

LEASE = timedelta(seconds=2 * MAX_TIMEOUT + 30)
"""Time to wait for a thread, to send, and to write the result."""

WINDOW = 4
"""Rows looked at for each one wanted: some will be of subscriptions that have enough."""

LOOKS = 4
"""How often a worker that always comes too late looks for other work before it waits."""

OTHERS_EVERY = 0.25
"""Seconds for which nobody is looked for again behind a long queue where nobody was found."""

BURST = 0.25
"""Seconds whose turns may be made up for, if a worker came late; so the rate is reached."""


class Limits(NamedTuple):
    """What tells whether a subscription may have a request now."""

    now: Any
    max_per_second: float | None = None
    next_slot_at: Any = None
    failure_count: int = 0
    held_until: Any = None

    @property
    def wait(self) -> timedelta:
        """Until it may be asked again; zero or less if it may be now."""
        holds = [each for each in (self.held_until, self.next_slot_at) if each is not None]
        return max(holds) - self.now if holds else timedelta(0)

    @property
    def turns(self) -> int | None:
        """How many requests the rate allows now; None if there is no rate."""
        if not self.max_per_second:
            return None
        return _turns(self.max_per_second, self.next_slot_at, self.now)


NO_LIMITS = Limits(None)

NOT_SENT = ("created_at", "matched", "event__data", "event__previous", "event__fanned_out_at")
"""Columns of a Delivery and its Event that sending needs not; whoever asks for one reads it."""


class Candidate(NamedTuple):
    """A due Delivery."""

    pk: int
    subscription_id: uuid.UUID
    lease_token: uuid.UUID | None
    """Of a lease that ran out: its worker never reported back."""


class Pace:
    """How many requests at a time each subscription has earned, in this process.

    Doubled by a success, halved by a failure, back to one by a time-out: as TCP finds its window.
    """

    def __init__(self) -> None:
        self._earned: dict[uuid.UUID, int] = {}

    def of(self, subscription_id: Any, places: int) -> int:
        """At most three quarters of the places: no single one can hold them all."""
        return min(self._earned.get(subscription_id, 1), max(places - places // 4, 1))

    def note(self, subscription_id: Any, error: str, places: int) -> None:
        """What came of an attempt: the `error` of the Attempt, empty for a success."""
        earned = self._earned.pop(subscription_id, 1)
        if error != "timeout":
            self._earned[subscription_id] = (
                max(earned // 2, 1) if error else min(earned * 2, places)
            )
        if len(self._earned) > MAX_REMEMBERED:
            self._earned.pop(next(iter(self._earned)))  # who was heard of longest ago


MAX_REMEMBERED = 10_000
"""Subscriptions; who was forgotten begins anew."""

pace = Pace()


@dataclass
class Claimed:
    """What a claim brought."""

    deliveries: list[Delivery] = field(default_factory=list)
    """To be sent now, leased to this worker."""
    taken: int = 0
    """Rows that were leased, with those that were given back or given up at once."""
    wait: timedelta | None = None
    """What was due may be sent after this time, if its subscription is held back until then."""


class Claimer:
    """Claims for one drain of one database, which has `places` for requests in flight."""

    def __init__(self, using: str, places: int) -> None:
        self.using = using
        self.places = places
        self._no_others_until = 0.0
        self._last_other: uuid.UUID | None = None
        self._served: dict[Any, int] = {}  # subscription: the number of the claim
        self._claims = 0

    def claim(
        self,
        wanted: int,
        in_flight: Collection[Delivery] = (),
        recent: Mapping[Any, int] = MappingProxyType({}),
    ) -> Claimed:
        """Take up to `wanted` due Deliveries, each leased to this worker and counted.

        `in_flight` is what this worker has under way already; `recent` how many of each
        subscription have just succeeded, so that as many more may wait for their thread.
        """
        self._claims += 1
        choice = _Choice(self.places, wanted, in_flight, recent, self._served)
        token = uuid.uuid4()
        leased = self._lease(token, choice)
        claimed = Claimed(taken=len(leased), wait=choice.wait)
        if leased:
            claimed.deliveries = self._load(leased, token)
            self._served |= {each.subscription_id: self._claims for each in claimed.deliveries}
        return claimed

    def _lease(self, token: uuid.UUID, choice: "_Choice") -> list[Candidate]:
        """What was taken.

        Each statement is repeated by itself where others are in the way: what one has taken must
        not be forgotten because of the next.
        """
        rows = Delivery.objects.using(self.using)
        for look in range(1, LOOKS + 1):
            window = choice.wanted * WINDOW * look
            candidates = on_contention(partial(self._look, choice, window), self.using)
            if look > 1:
                random.shuffle(candidates)
            limits = on_contention(partial(_limits_of, candidates, self.using), self.using)
            chosen = choice.of(candidates, limits)
            if not chosen:
                return []
            ids = [row.pk for row in chosen]
            taken = on_contention(partial(rows.filter(pk__in=ids).lease, token, LEASE), self.using)
            if not taken:
                continue
            if taken < len(ids):
                mine = rows.filter(pk__in=ids).held_by(token)
                held: set[int] = on_contention(
                    partial(set, mine.values_list("pk", flat=True)), self.using
                )
                chosen = [row for row in chosen if row.pk in held]
            if abandoned := [row.pk for row in chosen if row.lease_token]:
                mine = rows.filter(pk__in=abandoned).held_by(token)
                on_contention(partial(_record_abandoned, mine), self.using)
            return chosen
        return []

    def _look(self, choice: "_Choice", window: int) -> list[Candidate]:
        """The oldest that are due, and those that a queue of theirs hides."""
        due = Delivery.objects.using(self.using).due().exclude(subscription_id__in=choice.full)
        seen = _candidates(due, window)
        if len(seen) < window or time.monotonic() < self._no_others_until:
            return seen
        others = self._find_others({row.subscription_id for row in seen} | choice.full, window)
        if not others:
            self._no_others_until = time.monotonic() + OTHERS_EVERY
            return seen
        return seen + _candidates(due.filter(subscription_id__in=others), window)

    def _find_others(self, known: set[Any], most: int) -> list[uuid.UUID]:
        """Subscriptions that have something due, in turn: on from where the last look ended."""
        rows = Subscription.objects.using(self.using)
        free = rows.with_something_due().exclude(pk__in=rows.held_back())
        ids = free.exclude(pk__in=known).order_by("pk").values_list("pk", flat=True)
        found = list(ids.filter(pk__gt=self._last_other)[:most] if self._last_other else ids[:most])
        if self._last_other and len(found) < most:
            found += ids.filter(pk__lte=self._last_other)[: most - len(found)]
        self._last_other = found[-1] if found else None
        return found

    def _load(self, leased: Sequence[Candidate], token: uuid.UUID) -> list[Delivery]:
        """The rows that may be sent; those that may not are given back, or given up."""
        ids = [row.pk for row in leased]
        rows = Delivery.objects.using(self.using).filter(pk__in=ids)
        try:
            # Each subscription once, and before the deliveries: if it has been paused since, or
            # given another URL, they are not `sendable()` any more.
            its = Subscription.objects.using(self.using).in_bulk(
                {row.subscription_id for row in leased}
            )
            mine = rows.held_by(token).sendable().select_related("event").defer(*NOT_SENT)
            claimed = _read(mine, token, ids)
            for each in claimed:
                each.subscription = its[each.subscription_id]
            if len(claimed) < len(ids):
                rows.exclude(pk__in=[each.pk for each in claimed]).release([token])
            sendable = [each for each in claimed if not _given_up(each, self.using)]
            return _within_limits(sendable, self.using)
        except Exception:
            # Not begun, so nothing is lost by giving it back.
            rows.release([token])
            raise


class _Choice:
    """Which of the candidates are taken, so that each subscription stays within its share.

    `served` tells in which claim a subscription had something last.
    """

    def __init__(
        self,
        places: int,
        wanted: int,
        in_flight: Collection[Delivery],
        recent: Mapping[Any, int],
        served: Mapping[Any, int],
    ) -> None:
        self.wanted = wanted
        self._recent = recent
        self.wait: timedelta | None = None
        self._places = places
        self._served = served
        self._in_flight: Counter[Any] = Counter(each.subscription_id for each in in_flight)
        self._doubtful = sum(
            1 for each in in_flight if each.subscription and each.subscription.failure_count
        )
        self.full = {key for key, count in self._in_flight.items() if count >= self._share(key)}

    def of(self, candidates: Sequence[Candidate], limits: Mapping[Any, Limits]) -> list[Candidate]:
        """Who has the fewest in flight comes first; then who was served longest ago; then what is
        due for longest."""
        chosen: list[Candidate] = []
        taken: Counter[Any] = Counter()
        doubtful = self._doubtful
        for row in self._in_turn(candidates):
            if len(chosen) == self.wanted:
                break
            its = limits.get(row.subscription_id, NO_LIMITS)
            if self._may(row, its, taken[row.subscription_id], doubtful):
                chosen.append(row)
                taken[row.subscription_id] += 1
                doubtful += its.failure_count > 0
        return chosen

    def _in_turn(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        counts = Counter(self._in_flight)
        ranked = []
        for row in candidates:
            key = row.subscription_id
            ranked.append(((counts[key], self._served.get(key, 0)), row))
            counts[key] += 1
        return [row for _, row in sorted(ranked, key=lambda each: each[0])]

    def _may(self, row: Candidate, its: Limits, taken: int, doubtful: int) -> bool:
        in_flight = self._in_flight[row.subscription_id] + taken
        if its.wait > timedelta(0):
            self._note_wait(its.wait)
            return False
        if its.turns is not None and taken >= its.turns:
            self._note_wait(_turn(its.max_per_second))
            return False
        if its.failure_count:
            # All that fail together never have more than half of the places.
            return not in_flight and doubtful < max(self._places // 2, 1)
        return in_flight < self._share(row.subscription_id)

    def _share(self, key: Any) -> int:
        return pace.of(key, self._places) + self._recent.get(key, 0)

    def _note_wait(self, wait: timedelta) -> None:
        self.wait = wait if self.wait is None else min(self.wait, wait)


def _candidates(due: Any, window: int) -> list[Candidate]:
    rows = due.order_by("next_attempt_at", "id").values_list(*Candidate._fields)
    return list(map(Candidate._make, rows[:window]))


def _limits_of(candidates: Sequence[Candidate], using: str) -> dict[Any, Limits]:
    """By subscription; those that have none are left out."""
    limited = (
        models.Q(max_per_second__isnull=False)
        | models.Q(next_slot_at__isnull=False)
        | models.Q(held_until__isnull=False)
        | models.Q(failure_count__gt=0)
    )
    ids = {row.subscription_id for row in candidates}
    rows = Subscription.objects.using(using).filter(limited, pk__in=ids).with_now()
    return {pk: Limits(*its) for pk, *its in rows.values_list("pk", *Limits._fields)}


def _record_abandoned(mine: Any) -> None:
    """A lease that ran out was an attempt, too, and perhaps a request: it is shown as one."""
    counted = mine.with_now().values_list("pk", "attempt_count", "first_attempt", "now")
    Attempt.objects.using(mine.db).bulk_create(
        Attempt(
            delivery_id=pk,
            number=count - 1,  # this claim is counted already
            is_first=count - 1 == first,
            started_at=now - LEASE,
            error="abandoned",
            detail="The worker that had begun it never wrote its result.",
        )
        for pk, count, first, now in counted
    )


def _read(mine: Any, token: uuid.UUID, ids: Sequence[int]) -> list[Delivery]:
    """Of a lot with a Delivery that can't be read, each by itself; that one has failed."""
    try:
        return list(mine.filter(pk__in=ids).order_by("pk"))
    except (ValueError, RecursionError) as error:  # as JSON raises them
        if len(ids) > 1:
            return [each for pk in ids for each in _read(mine, token, [pk])]
        logger.exception("Delivery %s can't be read; it has failed.", ids[0])
        _fail_unsent(ids[0], token, f"It can't be read: {error!r}", mine.db)
        return []


def _given_up(delivery: Delivery, using: str) -> bool:
    """Ends a delivery whose last attempt was abandoned: perhaps it is what kills the worker."""
    if delivery.round <= len(settings.RETRY_SCHEDULE) + 1:
        return False
    reason = "Given up: the last attempt was begun and its worker never reported back."
    _fail_unsent(delivery.pk, delivery.lease_token, reason, using)
    return True


def _fail_unsent(pk: int, token: uuid.UUID | None, reason: str, using: str) -> None:
    """It was counted when it was claimed, but no request is made."""
    rows = Delivery.objects.using(using).filter(pk=pk)
    mine = rows.filter(lease_token=token)
    mine.update(attempt_count=models.F("attempt_count") - 1)
    if mine.complete(Delivery.Status.FAILED, timezone.now(), reason):
        signals.delivery_failed.send_robust(sender=Delivery, delivery=rows.get(), attempt=None)


# Limits that hold across all workers: a rate, and the one probe of an endpoint that failed


def _within_limits(claimed: Sequence[Delivery], using: str) -> list[Delivery]:
    """What the subscriptions' limits let through now; the rest is put back for its turn."""
    by_subscription: dict[Subscription, list[Delivery]] = {}
    for each in claimed:
        if each.subscription is not None:
            by_subscription.setdefault(each.subscription, []).append(each)
    kept: list[Delivery] = []
    for subscription, deliveries in by_subscription.items():
        if not (subscription.max_per_second or subscription.is_open):
            kept += deliveries
            continue
        granted, wait = _take_turns(subscription, len(deliveries), using)
        kept += deliveries[:granted]
        back = deliveries[granted:]
        rows = Delivery.objects.using(using).filter(pk__in=[each.pk for each in back])
        rows.release([each.lease_token for each in back], wait)
    return kept


def _take_turns(subscription: Subscription, wanted: int, using: str) -> tuple[int, timedelta]:
    """How many requests may be made now, and how long whoever gets none has to wait."""
    rows = Subscription.objects.using(using)

    def take() -> tuple[int, timedelta]:
        with transaction.atomic(using=using):
            row = rows.lock([subscription.pk], skip_locked=True).with_now().first()
            if row is None:  # another worker is taking its turns
                return 0, timedelta(seconds=BURST)
            if row.held_until is not None and row.held_until > row.now:
                return 0, row.held_until - row.now
            granted = 1 if row.is_open else wanted
            changes: dict[str, Any] = {}
            if row.max_per_second:
                turn = _turn(row.max_per_second)
                granted = min(granted, _turns(row.max_per_second, row.next_slot_at, row.now))
                start = max(row.next_slot_at or row.now, row.now - timedelta(seconds=BURST))
                changes["next_slot_at"] = start + granted * turn
            if row.is_open and granted:
                # Nobody else asks until this one probe has come back, or its worker is dead.
                changes["held_until"] = row.now + LEASE
            if changes:
                rows.filter(pk=row.pk).update(**changes)
            wait = changes.get("next_slot_at", row.now) - row.now
            return granted, max(wait, timedelta(seconds=POLITE))

    return on_contention(take, using)


POLITE = 0.01
"""Seconds that what was given back waits at the least, so that it is not taken again at once."""


def _turn(max_per_second: float | None) -> timedelta:
    """The time between two requests; from a microsecond to a day, whatever the rate."""
    seconds = min(1 / max_per_second if max_per_second else 0, 86400)
    return max(timedelta(seconds=seconds), timedelta(microseconds=1))


def _turns(max_per_second: float, next_slot_at: Any, now: Any) -> int:
    """How many turns have come up by now. Those of a long silence are not made up for."""
    turn = _turn(max_per_second)
    start = max(next_slot_at or now, now - timedelta(seconds=BURST))
    return 0 if start > now else 1 + (now - start) // turn


__all__ = ["LEASE", "Claimed", "Claimer", "pace"]
