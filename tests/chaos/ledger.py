"""What arrived: a receiver on a free port that notes each request and how it was answered."""

import random
import threading
import time
from dataclasses import dataclass, field

from tests.receiver import Answer, Received, Receiver


@dataclass(frozen=True)
class Record:
    path: str
    request: Received
    status: int
    received_at: float
    """Seconds since 1970."""


@dataclass
class Ledger:
    """Answers as a real crowd of endpoints would: most at once, some late, never or badly."""

    rng: random.Random
    records: list[Record] = field(default_factory=list)
    is_calm: bool = False
    """From now on all is answered well, but by what is dead."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receiver(self) -> Receiver:
        return Receiver(self.answer)

    def answer(self, request: Received) -> Answer:
        received_at = time.time()
        with self._lock:
            luck = self.rng.random()
        status, delay = self._decide(request.path, 0.5 if self.is_calm else luck)
        time.sleep(delay)
        # Noted before it is sent: what the worker counts as arrived is here for certain.
        self.records.append(Record(request.path, request, status, received_at))
        return status

    def _decide(self, path: str, luck: float) -> tuple[int, float]:
        """Status and seconds until it is sent."""
        if path.endswith("/dead"):
            return 500, 0
        if luck < 0.05:
            return 500, 0
        if luck < 0.06:
            return 204, 3  # longer than the time-out: arrived, and the sender never knows
        if luck < 0.16:
            return 204, 0.2
        return 204, 0.01
