"""PostgreSQL's NOTIFY as the doorbell, for `webhooks_drain --loop` without a task queue.

The wake is one statement after the commit. Inside the transaction it would need no statement of
its own, but PostgreSQL lets transactions that notify commit only one after the other.
"""

import logging
import select
import threading
import time
from collections.abc import Sequence
from typing import Any

from django.db import connections

from django_webhooks.backends.base import BaseTaskBackend

logger = logging.getLogger("django_webhooks")

CHANNEL = "django_webhooks"

SLICE = 0.1
"""Seconds after which who listens looks whether to stop, and whether a poll is due elsewhere."""


class NotifyBackend(BaseTaskBackend):
    """Wakes the loops that listen; databases other than PostgreSQL are polled."""

    listens = True

    def __init__(self) -> None:
        self._ears: dict[str, Any] = {}

    def wake(self, using: str) -> None:
        connection = connections[using]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])

    def listen(self, aliases: Sequence[str], seconds: float, stop: threading.Event) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stop.is_set():
            try:
                if self._heard(aliases, min(left, SLICE)):
                    return
            except Exception:
                logger.warning("The connection that listens was lost; polling.", exc_info=True)
                self._close()
                stop.wait(SLICE)
                return

    def _heard(self, aliases: Sequence[str], seconds: float) -> bool:
        """Whether there was a wake, or may have been one that nobody heard."""
        deaf = [alias for alias in aliases if connections[alias].vendor != "postgresql"]
        new = [alias for alias in aliases if alias not in self._ears and alias not in deaf]
        for alias in new:
            self._ears[alias] = _listen(alias)
        if new:
            return True  # what was committed just before
        drivers = [ear.connection for ear in self._ears.values()]
        ready, _, _ = select.select(drivers, [], [], seconds)
        heard = [_hear(driver) for driver in ready]  # each, or the next look finds old wakes
        return any(heard) or bool(deaf)

    def _close(self) -> None:
        for ear in self._ears.values():
            ear.close()
        self._ears.clear()


def _listen(using: str) -> Any:
    """A connection of its own, so that nothing else reads what arrives on it."""
    ear = connections.create_connection(using)
    with ear.cursor() as cursor:
        cursor.execute(f"LISTEN {CHANNEL}")
    return ear


def _hear(driver: Any) -> bool:
    """Take in what has arrived, by psycopg or by psycopg2. Raises if the connection is lost."""
    if not hasattr(driver, "pgconn"):
        driver.poll()
        heard = bool(driver.notifies)
        driver.notifies.clear()
        return heard
    driver.pgconn.consume_input()
    heard = False
    while driver.pgconn.notifies():
        heard = True
    return heard
