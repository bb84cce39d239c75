"""When to try again: a number of seconds, or never. No clock and no randomness of its own."""

import math
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from django.db import OperationalError, connections

JITTER = 0.2
"""A delay is lengthened by up to this share, never shortened, so that retries spread out."""

MAX_RETRY_AFTER = 86400.0
"""Seconds; a receiver can't put a delivery off for longer than a day."""

OPEN_AFTER = 5
"""Failures in a row after which an endpoint is held back, whatever is due to it."""

FIRST_HOLD, LONGEST_HOLD = 5.0, 3600.0
"""Seconds for which it is held back at first, and at the most."""

Result = TypeVar("Result")


def next_delay(
    attempt: int, schedule: Sequence[float], *, retry_after: float | None, jitter: float
) -> float | None:
    """Seconds to wait after failed attempt number `attempt` (1 is the first), or None: give up.

    `jitter` is a random number from 0 to 1; `retry_after` what the receiver asked for, in
    seconds. The wait is never shorter than the schedule says.
    """
    if attempt > len(schedule):
        return None
    scheduled = schedule[attempt - 1] * (1 + JITTER * jitter)
    return max(scheduled, min(retry_after or 0.0, MAX_RETRY_AFTER))


def hold(failures: int, jitter: float) -> float:
    """Seconds until an endpoint is tried again that has failed so often: doubled each time.

    `jitter` is a random number from 0 to 1.
    """
    times = min(max(failures - OPEN_AFTER, 0), 30)  # 2**30 s is beyond the longest
    return float(min(FIRST_HOLD * 2**times, LONGEST_HOLD) * (1 + JITTER * jitter))


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Seconds asked for by a `Retry-After` header (RFC 9110, 10.2.3); None for none or nonsense."""
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except (TypeError, ValueError, OverflowError):
            return None
        if until.tzinfo is None:  # RFC 5322's "-0000"; HTTP dates are always UTC
            until = until.replace(tzinfo=UTC)
        seconds = (until - now).total_seconds()
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def on_contention(action: Callable[[], Result], using: str, *, tries: int = 5) -> Result:
    """The result of `action`, tried again when the database only says "not now".

    Locked (SQLite), deadlock and lock wait time-out (MySQL 1213, 1205; PostgreSQL 40P01, 40001).
    Inside a transaction there is no trying again: that is for whoever began it.
    """
    for number in range(1, tries + 1):
        try:
            return action()
        except OperationalError as error:
            outer = connections[using].in_atomic_block
            if outer or number == tries or not _is_contention(error):
                raise
            time.sleep(random.uniform(0.01, 0.05) * number)  # noqa: S311
    raise AssertionError("unreachable")


def _is_contention(error: OperationalError) -> bool:
    cause = error.__cause__
    if getattr(cause, "sqlstate", None) in ("40001", "40P01", "55P03"):
        return True
    if error.args and error.args[0] in (1205, 1213):
        return True
    return "locked" in str(error)
