"""Wakes nobody and remembers that it was asked to."""

from datetime import datetime

from django_webhooks.backends.base import BaseTaskBackend


class DummyBackend(BaseTaskBackend):
    """`wakes` lists the aliases it was woken for, oldest first; `clear()` forgets them."""

    def __init__(self) -> None:
        self.wakes: list[str] = []
        self.timed_wakes: list[tuple[str, datetime]] = []

    def wake(self, using: str) -> None:
        self.wakes.append(using)

    def wake_at(self, using: str, when: datetime) -> bool:
        self.timed_wakes.append((using, when))
        return False

    def clear(self) -> None:
        self.wakes.clear()
        self.timed_wakes.clear()
