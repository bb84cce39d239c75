"""Deliver what is due: once (for cron), or for ever (a worker beside or instead of a cluster)."""

import math
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand
from django.db import close_old_connections

from django_webhooks.models import Watch, outbox_aliases
from django_webhooks.worker import POLL, DrainResult, drain

SIGN_EVERY = 10.0
"""Seconds after which a loop with nothing to do says that it is alive, for `webhooks_status`."""

TELL_EVERY = 5.0
"""Seconds after which a long drain tells how far it has come."""


class Command(BaseCommand):
    help = "Deliver the webhooks that are due. Any number of these may run at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--loop", action="store_true", help="go on for ever, until SIGTERM or Ctrl-C"
        )
        parser.add_argument(
            "--max-seconds", type=float, help="begin nothing new after this many seconds"
        )

    def handle(self, *args: Any, loop: bool, max_seconds: float | None, **options: Any) -> None:
        with _stop_on_signal() as stop:
            if loop:
                self.stdout.write("Delivering webhooks; Ctrl-C or SIGTERM stops.")
                self._loop(stop, max_seconds)
            else:
                self._once(stop, max_seconds)

    def _once(self, stop: threading.Event, max_seconds: float | None) -> None:
        """All that is due, in slices: a long backlog shows progress, and can be interrupted."""
        ends = time.monotonic() + (math.inf if max_seconds is None else max_seconds)
        total = DrainResult()
        while True:
            began = time.monotonic()
            slice_ends = min(began + TELL_EVERY, ends)
            total += _drain(slice_ends - began, stop)
            self._tell(total)
            # It came back early because nothing is due any more, or is to end here.
            if time.monotonic() < slice_ends or slice_ends == ends or stop.is_set():
                break

    def _loop(self, stop: threading.Event, max_seconds: float | None) -> None:
        idle = 0.0
        timer = threading.Timer(max_seconds, stop.set) if max_seconds else None
        if timer:
            timer.start()
        while not stop.is_set():
            result = _drain(None, stop)
            if result:
                self._tell(result)
                idle = 0.0
                continue
            idle += POLL
            if idle >= SIGN_EVERY:
                idle = 0.0
                close_old_connections()
                Watch.objects.using(outbox_aliases()[0]).sign()
            stop.wait(POLL)
        if timer:
            timer.cancel()
        self.stdout.write("Stopped: what had been begun is finished.")

    def _tell(self, result: DrainResult) -> None:
        self.stdout.write(
            f"{result.events} events, {result.attempts} attempts: {result.succeeded} succeeded, "
            f"{result.retried} to be retried, {result.failed} failed."
        )


def _drain(max_seconds: float | None, stop: threading.Event) -> DrainResult:
    Watch.objects.using(outbox_aliases()[0]).sign()
    return drain(max_seconds, stop=stop)


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
