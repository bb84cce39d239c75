"""What a process under test has in itself, by variables of its environment.

Installed by the app's `ready()`, so that it is the same for any command of any engine, and the
package knows nothing of it.

CHAOS_LEASE=5            the lease in seconds, so that nobody has to wait for 90
CHAOS_CLOCK=3600         the host's clock is so many seconds ahead
CHAOS_DIE="after claim"  SIGKILL at the first time that this point is reached (see POINTS)
CHAOS_CONNECTS=<file>    each address that is connected to is written there
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from django.utils import timezone

from django_webhooks import claim, delivery, fanout


def install() -> None:
    environment = os.environ
    if seconds := environment.get("CHAOS_LEASE"):
        claim.LEASE = timedelta(seconds=float(seconds))
    if seconds := environment.get("CHAOS_CLOCK"):
        _shift_clock(float(seconds))
    if point := environment.get("CHAOS_DIE"):
        _die(*POINTS[point])
    if path := environment.get("CHAOS_CONNECTS"):
        _spy(path)


POINTS: dict[str, tuple[Any, str, str]] = {
    "before the fan-out commits": (fanout, "_insert", "after"),
    "before claim": (claim.Claimer, "_lease", "before"),
    "after claim": (claim.Claimer, "_lease", "after"),
    "before the result is written": (delivery, "_write", "before"),
    "before the result commits": (delivery, "_note_incidents", "after"),
}
"""The function, and whether death comes before it or after it has done something."""


def _die(owner: Any, name: str, when: str) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    @wraps(function)
    def dying(*args: Any, **kwargs: Any) -> Any:
        result = None if when == "before" else function(*args, **kwargs)
        if when == "before" or result or name.startswith(("_insert", "_write")):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def _shift_clock(seconds: float) -> None:
    """Of all that this process reads but the monotonic clock, which no one sets."""
    host_time, host_now = time.time, timezone.now
    time.time = lambda: host_time() + seconds
    timezone.now = lambda: host_now() + timedelta(seconds=seconds)


def _spy(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            os.write(file, f"{args[1]!r}\n".encode())

    sys.addaudithook(hear)
