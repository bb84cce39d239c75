"""The worker: fan out, claim, send, settle, until nothing is due.

`drain()` does what is due now. `attend()` is the task behind a wake: it drains, and one of all
the tasks that run then lingers for what comes next, so that wakes can be few and lost ones cost
only time. Both may run in any number of processes at once.
"""

import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from django.db import Error, connections
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from django_webhooks import delivery, hops
from django_webhooks.backends import get_backend
from django_webhooks.backends.base import HOLD_BACK
from django_webhooks.claim import Claimed, Claimer, pace
from django_webhooks.conf import settings
from django_webhooks.delivery import Outcome, Settled
from django_webhooks.fanout import fan_out
from django_webhooks.lanes import Lanes
from django_webhooks.models import (
    Delivery,
    Event,
    Subscription,
    Watch,
    database_now,
    outbox_aliases,
)
from django_webhooks.transport import Transport

logger = logging.getLogger("django_webhooks")

BUDGET = 20.0
"""Seconds after which a task begins nothing more; with the longest exchange (30) that is below
django-q2's default `retry` of 60, after which the task would be run a second time."""

LINGER = timedelta(seconds=2 * HOLD_BACK)
"""How long a task waits for more: longer than a process holds its wakes back."""

NEAR = timedelta(seconds=10)
"""A retry due within this time is waited for."""

SOON = timedelta(minutes=10)
"""A retry due within this time is what a backend with timers is asked to come back for; brokers
don't keep tasks for long."""

HELD = timedelta(seconds=5)
"""A lingering task that has not been seen for this long is dead."""

CROWDED = 0.3
"""Seconds after which a drain that still finds as much as it asks for calls for another task; and
then for one more each time, as long as there are workers who come."""

CALLED = timedelta(minutes=1)
"""A task that was called for and has not begun after this time is lost."""

POLL = 0.1
"""Seconds between two looks of a lingering task."""

STALE = 1.0
"""Seconds for which a claimed Delivery may wait for a thread: then it is given back, for its
subscription may have been changed."""

RECENT, AHEAD = 0.2, 16
"""Seconds: as many requests as succeed in this time are claimed ahead of a free thread, of each
subscription as of all, but not more than so many for each thread."""

BRIEF = 0.02
"""Seconds of a drain that tell how many requests will succeed in a longer time."""

GATHER, GATHER_BUSY = 0.003, 0.05
"""Seconds for which results that follow the first are waited for, to be settled with it; the
second as long as twice as much is under way as threads can take. What is gathered is sent twice if
the worker is killed meanwhile."""

LOOK = 0.02
"""Seconds for which a busy drain does not look again for events where there were none, and does not
claim by ones and twos."""

PATIENCE = timedelta(seconds=0.25)
"""How long a drain waits for the turn of a subscription with a rate, if nothing else is due.
Slower ones are left to those that come again: a task that lingers, a loop, the sweep."""


@dataclass
class DrainResult:
    """What a drain did."""

    events: int = 0
    """Events fanned out."""
    attempts: int = 0
    """Requests made, whatever came of them."""
    succeeded: int = 0
    retried: int = 0
    """Failed attempts that are to be repeated."""
    failed: int = 0
    """Deliveries given up."""
    stale: int = 0
    """Results that came after another worker had taken over."""
    broken: int = 0
    """Databases that could not be drained; the log tells why."""

    def __bool__(self) -> bool:
        """Whether anything was done."""
        return any(count for name, count in asdict(self).items() if name != "broken")

    def __add__(self, other: "DrainResult") -> "DrainResult":
        mine, its = asdict(self), asdict(other)
        return DrainResult(**{name: mine[name] + its[name] for name in mine})

    def count(self, settled: Settled) -> None:
        self.succeeded += settled.succeeded
        self.retried += settled.retried
        self.failed += settled.failed
        self.stale += settled.stale
        self.attempts += settled.succeeded + settled.retried + settled.failed + settled.stale


def drain(
    max_seconds: float | None = None,
    *,
    stop: threading.Event | None = None,
    using: str | None = None,
    call: Callable[[], None] | None = None,
) -> DrainResult:
    """Do all that is due, in every database that holds the outbox; what was done, in numbers.

    After `max_seconds` nothing more is begun (what is under way is finished: at most `TIMEOUT`
    seconds more), and also once `stop` is set. With `using` only that database is drained. `call`
    is called now and then while there is more than this drain can take.
    Raises `TransactionManagementError` inside a transaction, for no request may wait for a lock,
    and no lock for a request. A database that is down is logged and harms no other.
    """
    deadline = None if max_seconds is None else time.monotonic() + max_seconds

    def out_of_time() -> bool:
        late = deadline is not None and time.monotonic() >= deadline
        return late or (stop is not None and stop.is_set())

    aliases = outbox_aliases() if using is None else [using]
    for each in aliases:
        _refuse_in_transaction(each)
    if getattr(_draining, "now", False):  # a signal's receiver saved something: we see it anyway
        return DrainResult()
    _draining.now = True
    try:
        with hops.caused_by(hops.NONE):  # not by the request in which `ImmediateBackend` drains
            return sum((_drain(each, out_of_time, call) for each in aliases), DrainResult())
    finally:
        _draining.now = False


def attend() -> dict[str, int]:
    """The task behind a wake and the sweep: drain, and linger unless another task does.

    Takes no argument, does not raise, and returns the counts. Loss-free by this order: whoever
    commits work wakes after it, or has woken less than `HOLD_BACK` ago; the task of that wake
    lingers itself or has just prolonged the one that does; and that one looks once more after it
    has said that it stops.
    """
    deadline = time.monotonic() + BUDGET
    result = DrainResult()
    try:
        result = _attend(deadline)
    except Exception:
        logger.exception("A drain failed; nothing is lost, the next wake or sweep tries again.")
    return asdict(result)


_draining = threading.local()


def _attend(deadline: float) -> DrainResult:
    token = uuid.uuid4()
    watch = Watch.objects.using(outbox_aliases()[0])

    def left() -> float:
        return max(deadline - time.monotonic(), 0)

    with suppress(Error):  # the drain tells of it, and does what is in the other databases
        watch.answer()
    call = partial(_call, watch)
    result = drain(left(), call=call)
    while left():
        if not watch.take(token, HELD, LINGER):
            if watch.prolong(LINGER):
                return result
            continue
        asked_for_more = False
        try:
            result += _linger(watch, token, left, call)
        finally:
            # Also when it was cut short: then whoever comes next need not wait for `HELD`.
            asked_for_more = not watch.leave(token) and watch.leave(token, anyway=True)
        if asked_for_more and not left():
            call()  # whose wakes are held back relies on somebody who lingers
            return result
        more = drain(left(), call=call)  # what came between the last look and the leaving
        result += more
        if not more:
            break
    if not left() and _is_work_left():
        call()
    else:
        _wake_when_due()
    return result


def _linger(
    watch: Any, token: uuid.UUID, left: Callable[[], float], call: Callable[[], None]
) -> DrainResult:
    """Look again and again, until nothing has come for `LINGER` and no retry is near."""
    result = DrainResult()
    next_sign = retry_at = 0.0
    while left():
        found = drain(left(), call=call)
        result += found
        now = time.monotonic()
        if found:
            watch.prolong(LINGER)
        if found or now >= next_sign:
            if not watch.keep(token, HELD):
                break  # thought dead, and replaced
            near = seconds_to_near_work()
            # From when it was asked, not from before: on a slow database that would be too early.
            next_sign, retry_at = now + 1.0, time.monotonic() + near
        if not found:
            if now >= retry_at and watch.leave(token):
                break
            time.sleep(POLL)
    return result


def _drain(
    using: str, out_of_time: Callable[[], bool], call: Callable[[], None] | None
) -> DrainResult:
    try:
        with Pipeline(using, call) as pipeline:
            return pipeline.run(out_of_time)
    except Exception:
        logger.exception(
            "The outbox in database %r could not be drained; it is tried again.", using
        )
        connections[using].close_if_unusable_or_obsolete()
        return DrainResult(broken=1)


@dataclass(frozen=True)
class UnderWay:
    """A Delivery that a thread sends, or will send."""

    delivery: Delivery
    since: float
    """Seconds of the monotonic clock."""


class Pipeline:
    """One drain of one database: claims on this thread, sends on many, settles on this one."""

    def __init__(self, using: str, call: Callable[[], None] | None = None) -> None:
        self.using = using
        self.result = DrainResult()
        self._call = call
        self._call_at = time.monotonic() + CROWDED
        self.under_way: dict[Future[Outcome], UnderWay] = {}
        self.places = settings.CONCURRENCY
        self._claimer = Claimer(using, self.places)
        self._succeeded: deque[tuple[float, Any]] = deque(maxlen=AHEAD * self.places)
        self._done: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._look_at = self._claim_at = self._began = 0.0
        self._lanes: Lanes | None = None
        self._transport: Transport | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Also after a time-out: no thread is waited for, what was not begun is given back."""
        is_cut_short = kind is not None and not issubclass(kind, Exception)
        try:
            if is_cut_short:
                # Perhaps within a query, after which some drivers can't go on.
                connections[self.using].close()
            self._leave()
        except Exception:
            if not is_cut_short:
                raise
            logger.exception("A drain that was cut short left claims to their leases.")

    def _leave(self) -> None:
        done = [each for each in self.under_way if each.done() and not each.cancelled()]
        try:
            self._settle([self._take(each) for each in done])
        finally:
            try:
                self._give_back()
            finally:
                self._closing.close()

    def run(self, out_of_time: Callable[[], bool]) -> DrainResult:
        while not out_of_time():
            events = self._fan_out()
            claimed = self._claim()
            self.result.events += events
            if not (events or claimed.taken or self.under_way):
                if claimed.wait is None or claimed.wait > PATIENCE:
                    break
                time.sleep(min(claimed.wait.total_seconds(), POLL))
                continue
            self._settle(self._wait())
            self._give_back(waiting_for=STALE)
        self._give_back()
        while self.under_way:
            self._settle(self._wait())
        return self.result

    def _fan_out(self) -> int:
        if self.under_way and time.monotonic() < self._look_at:
            return 0
        events = fan_out(self.using)
        if not events:
            self._look_at = time.monotonic() + LOOK
        return events

    def _claim(self) -> Claimed:
        recent = self._succeeding()
        most = self.places + min(recent.total(), AHEAD * self.places)
        wanted = most - len(self.under_way)
        # Claiming by ones and twos costs as many queries as by dozens. But a free place is not to
        # wait long for others to be: what holds them may hang.
        enough = most // 2 if time.monotonic() < self._claim_at else 1
        if wanted < enough:
            return Claimed()
        self._claim_at = time.monotonic() + LOOK if recent else 0.0
        flying = [each.delivery for each in self.under_way.values()]
        claimed = self._claimer.claim(wanted, flying, recent)
        for each in claimed.deliveries:
            lanes, transport = self._engine()
            key = each.subscription_id
            future = lanes.submit(key, delivery.send, delivery.pack(each), transport)
            self.under_way[future] = UnderWay(each, time.monotonic())
            future.add_done_callback(self._done.put)
        is_crowded = claimed.taken == wanted >= self.places
        if self._call and is_crowded and time.monotonic() >= self._call_at:
            self._call_at = time.monotonic() + CROWDED
            self._call()
        return claimed

    def _succeeding(self) -> Counter[Any]:
        """How many requests to each subscription succeed within `RECENT`, as it goes now."""
        now = time.monotonic()
        since = min(max(now - self._began, BRIEF), RECENT)
        recent = Counter(key for moment, key in self._succeeded if moment > now - since)
        return Counter({key: round(count * RECENT / since) for key, count in recent.items()})

    def _wait(self) -> list[Outcome]:
        """What has come back; where one comes, others follow, and are written at once."""
        done: list[Future[Outcome]] = []  # still under way, for this may be cut short
        gather, enough = GATHER, len(self.under_way)
        if enough >= 2 * self.places:
            gather, enough = GATHER_BUSY, enough - self.places
        until = time.monotonic() + POLL
        with suppress(Empty):
            while len(done) < enough:
                future = self._done.get(timeout=max(until - time.monotonic(), 0))
                if future not in self.under_way:
                    continue  # it was given back
                if not done:
                    until = time.monotonic() + gather
                done.append(future)
        return [self._take(each) for each in done]

    def _take(self, future: "Future[Outcome]") -> Outcome:
        sent = self.under_way.pop(future).delivery
        outcome = future.result()
        if not outcome.exchange.error:
            self._succeeded.append((time.monotonic(), sent.subscription_id))
        pace.note(sent.subscription_id, outcome.exchange.error, self.places)
        return outcome

    def _settle(self, outcomes: list[Outcome]) -> None:
        self.result.count(delivery.settle(self.using, outcomes))

    def _engine(self) -> tuple[Lanes, Transport]:
        """Threads and connections, made only when there is something to send."""
        if self._lanes is None or self._transport is None:
            self._began = time.monotonic()
            self._lanes = Lanes(self.places, partial(pace.of, places=self.places))
            self._transport = delivery.make_transport()
            self._closing.callback(self._transport.close)
            self._closing.callback(self._lanes.close)
        return self._lanes, self._transport

    def _give_back(self, *, waiting_for: float = 0.0) -> None:
        """Release what no thread has begun; a lease covers what is being sent."""
        until = time.monotonic() - waiting_for
        unbegun = [future for future, each in self.under_way.items() if each.since <= until]
        back = [self.under_way.pop(each).delivery for each in unbegun if each.cancel()]
        if back:
            rows = Delivery.objects.using(self.using).filter(pk__in=[each.pk for each in back])
            rows.release([each.lease_token for each in back])


def _refuse_in_transaction(using: str) -> None:
    connection = connections[using]
    # The transactions of Django's TestCase don't count, as with atomic(durable=True).
    if any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
        raise TransactionManagementError(
            "drain() was called inside a transaction; call it after the commit."
        )


def seconds_to_near_work() -> float:
    """How long until a retry is due, or a subscription may be asked again; 0 if not near."""
    wait = _wait_for_work()
    return wait.total_seconds() if wait is not None and wait <= NEAR else 0


def _wait_for_work() -> timedelta | None:
    waits = (_wait_of(using) for using in outbox_aliases())
    return min((wait for wait in waits if wait is not None), default=None)


def _wait_of(using: str) -> timedelta | None:
    """Until the next retry, or until a subscription that is held back may be asked again."""
    deliveries, now = Delivery.objects.using(using).sendable(), database_now(using)
    later = deliveries.filter(next_attempt_at__gt=now, lease_token__isnull=True)
    retries = later.order_by("next_attempt_at").with_now().values_list("next_attempt_at", "now")
    held = Subscription.objects.using(using).held_back().with_something_due().with_now()
    waits = [moment - now for moment, now in retries[:1]]
    waits += [
        max(moment for moment in moments if moment is not None) - now
        for *moments, now in held.values_list("held_until", "next_slot_at", "now")
    ]
    return min(waits, default=None)


def _is_work_left() -> bool:
    return any(
        Event.objects.using(using).waiting().exists()
        or Delivery.objects.using(using).due().exists()
        for using in outbox_aliases()
    )


def _wake_when_due() -> None:
    """Have a backend with timers come back for the next retry; the others have the sweep."""
    try:
        wait = _wait_for_work()
        if wait is not None and wait <= SOON:
            get_backend().wake_at(outbox_aliases()[0], timezone.now() + wait)
    except Exception:
        logger.exception("No worker could be woken for what is due soon; the sweep takes it.")


def _call(watch: Any) -> None:
    """Ask for one more task, unless one is on its way: it will see all that there is now."""
    backend = get_backend()
    wake: Callable[[str], None] = getattr(backend, "wake_again", backend.wake)
    try:
        if watch.call(CALLED):
            try:
                wake(outbox_aliases()[0])
            except Exception:
                watch.answer()
                raise
    except Exception:
        logger.exception("No worker could be woken for what is left; the next sweep takes it.")


__all__ = ["DrainResult", "attend", "drain", "seconds_to_near_work"]
