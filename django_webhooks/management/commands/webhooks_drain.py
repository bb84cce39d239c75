"""Deliver what is due: once (for cron), or for ever (a worker beside or instead of a cluster)."""

import gc
import logging
import math
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand
from django.db import DatabaseError, close_old_connections, connections

from django_webhooks.backends import get_backend
from django_webhooks.management import arguments
from django_webhooks.models import Watch, outbox_aliases
from django_webhooks.worker import POLL, DrainResult, drain, seconds_to_near_work

logger = logging.getLogger("django_webhooks")

SIGN_EVERY = 10.0
"""Seconds after which a loop says again that it is alive, for `webhooks_status`."""

PAUSE = 2.0
"""Seconds for which a loop leaves a database alone that is down."""

LISTEN_FOR = 5.0
"""Seconds after which a loop that is woken by its backend looks all the same."""

TELL_EVERY = 5.0
"""Seconds after which a long drain tells how far it has come."""


class Command(BaseCommand):
    help = "Deliver the webhooks that are due. Any number of these may run at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--loop", action="store_true", help="go on for ever, until SIGTERM or Ctrl-C"
        )
        parser.add_argument(
            "--max-seconds",
            type=arguments.seconds,
            help="begin nothing new after this many seconds",
        )

    def handle(self, *args: Any, loop: bool, max_seconds: float | None, **options: Any) -> None:
        with _seldom_collecting(), _stop_on_signal() as stop:
            if loop:
                self.stdout.write("Delivering webhooks; Ctrl-C or SIGTERM stops.")
                self._loop(stop, max_seconds)
            else:
                self._once(stop, max_seconds)

    def _once(self, stop: threading.Event, max_seconds: float | None) -> None:
        """All that is due, in slices: a long backlog shows progress, and can be interrupted."""
        total = DrainResult()
        for seconds in _slices(max_seconds):
            began = time.monotonic()
            total += drain(seconds, stop=stop)
            self._tell(total)
            sign()
            if stop.is_set():
                break
            if time.monotonic() - began < seconds:  # nothing is due, or not just yet
                if max_seconds is None or not seconds_to_near_work():
                    break
                stop.wait(POLL)

    def _loop(self, stop: threading.Event, max_seconds: float | None) -> None:
        signed = -math.inf
        for seconds in _slices(max_seconds):
            if stop.is_set():
                break
            if time.monotonic() - signed >= SIGN_EVERY:
                signed = time.monotonic()
                close_old_connections()
                sign()
            result = drain(seconds, stop=stop)
            if result:
                self._tell(result)
            elif result.broken:
                stop.wait(PAUSE)
            else:
                _rest(stop, seconds)
        self.stdout.write("Stopped: what had been begun is finished.")

    def _tell(self, result: DrainResult) -> None:
        self.stdout.write(
            f"{result.events} events, {result.attempts} attempts: {result.succeeded} succeeded, "
            f"{result.retried} to be retried, {result.failed} failed."
        )


def _rest(stop: threading.Event, seconds: float) -> None:
    """Until there may be work again. A wake that is lost costs `LISTEN_FOR`."""
    backend = get_backend()
    if not backend.listens:
        stop.wait(POLL)
        return
    try:
        near = seconds_to_near_work()
    except DatabaseError:  # the next drain tells of it
        near = POLL
    backend.listen(outbox_aliases(), min(near or LISTEN_FOR, seconds), stop)


def sign() -> None:
    """Tell `webhooks_status` that a worker is alive; a database that is down comes back."""
    try:
        Watch.objects.using(outbox_aliases()[0]).sign()
    except DatabaseError:
        logger.exception("The worker could not sign that it is alive; it tries again.")
        connections[outbox_aliases()[0]].close_if_unusable_or_obsolete()


def _slices(max_seconds: float | None) -> Iterator[float]:
    """Seconds for one drain after the other, until `max_seconds` are over."""
    ends = math.inf if max_seconds is None else time.monotonic() + max_seconds
    while (left := ends - time.monotonic()) > 0:
        yield min(left, TELL_EVERY)


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """What a site has loaded stays: to look through it for garbage takes a tenth of a second.
    What is delivered has no cycles: to look for them so often takes a twentieth of the time."""
    if gc.get_freeze_count():  # whoever called us has seen to it
        yield
        return
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(10_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that what is under way is finished and written."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
