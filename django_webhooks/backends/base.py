"""What a task backend must do: wake a worker. `immediate` and `dummy` show how little that is."""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime

from django.core.checks import CheckMessage
from django.utils import timezone

from django_webhooks.conf import MAX_TIMEOUT

logger = logging.getLogger("django_webhooks")

HOLD_BACK = 1.0
"""Seconds for which a process stays quiet after a wake; `worker.LINGER` must be longer."""

BREAK = 30.0
"""Seconds for which a process leaves a broken or slow broker alone; the sweep goes on."""

SLOW = 1.0
"""Seconds; a broker that takes longer than this to accept a wake counts as broken."""

TASK_SECONDS = 20.0 + MAX_TIMEOUT
"""Seconds that a task may take: `worker.BUDGET`, told again because backends stand below the
worker, and the longest exchange that a subscription may ask for, begun at the end of it."""


class BaseTaskBackend:
    """Wakes a worker that calls `django_webhooks.worker.attend()` for a database alias."""

    def wake(self, using: str) -> None:
        """Called after each commit that wrote Events, and when work is left. May raise."""
        raise NotImplementedError

    def wake_at(self, using: str, when: datetime) -> bool:
        """Called by a task that stops, for what is due in the next minutes. May raise.

        True if a worker is woken then, by timers of the engine; else the sweep finds it.
        """
        return False

    needs_worker = True
    """Whether what is due waits for another process; if not, nobody misses one."""

    listens = False
    """Whether `listen()` hears the wakes. If not, `webhooks_drain --loop` polls."""

    def listen(self, aliases: Sequence[str], seconds: float, stop: threading.Event) -> None:
        """Return at a wake for one of the databases, once `stop` is set, or after `seconds`."""
        raise NotImplementedError

    def ensure_sweep(self, using: str) -> None:
        """Install the recurring sweep, and a daily prune, once, after `migrate`.

        Nothing without a scheduler.
        """

    def check(self) -> Sequence[CheckMessage]:
        """System-check messages about the engine's own settings."""
        return []


class QueueBackend(BaseTaskBackend):
    """A backend that hands the wake to a broker: few wakes, and a dead broker is left alone.

    A wake less than `HOLD_BACK` seconds after the last one is dropped without loss, for the
    drain that the last one started lingers for longer than that.
    """

    def __init__(self) -> None:
        self._quiet_until: dict[str, float] = {}
        self._timers: dict[str, datetime] = {}
        """For when this process has last asked to be woken."""

    def enqueue(self, using: str) -> None:
        """Put one task on the queue that calls `django_webhooks.worker.attend(using)`."""
        raise NotImplementedError

    def wake(self, using: str) -> None:
        started = time.monotonic()
        if started < self._quiet_until.get(using, 0):
            return
        # Said before the broker is asked: other threads must not queue up behind a stalled one.
        self._quiet_until[using] = started + HOLD_BACK
        try:
            self.enqueue(using)
        except Exception:
            self._quiet_until[using] = time.monotonic() + BREAK
            raise
        took = time.monotonic() - started
        if took > SLOW:
            self._quiet_until[using] = time.monotonic() + BREAK
            logger.warning(
                "The task queue took %.1f s to accept a wake; it is left alone for %.0f s and "
                "the sweep delivers meanwhile.",
                took,
                BREAK,
            )

    def enqueue_at(self, using: str, when: datetime) -> bool:
        """Put the same task on the queue, for `when`; False if the queue has no timers."""
        return False

    def wake_at(self, using: str, when: datetime) -> bool:
        timer = self._timers.get(using)
        if timer is not None and timezone.now() < timer <= when:
            return True  # that task will ask for what is due after it
        is_set = self.enqueue_at(using, when)
        if is_set:
            self._timers[using] = when
        return is_set

    def wake_again(self, using: str) -> None:
        """A wake from a worker that stops with work left: never held back."""
        self.enqueue(using)
