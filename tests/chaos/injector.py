"""Does the harm: at moments that the seed decides, to a worker that chance picks."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from django.db import DatabaseError, connection

from tests.chaos.engines import Engine
from tests.processes import Process, wait_until

START = 30.0
"""Seconds within which a worker must have begun to work."""


@dataclass
class Crew:
    """The workers of an engine; whoever dies is replaced."""

    engine: Engine
    environment: dict[str, str]
    workers: list[Process] = field(default_factory=list)

    @contextmanager
    def at_work(self) -> Iterator["Crew"]:
        try:
            self.workers = [self._start() for _ in range(self.engine.workers)]
            for each in self.workers:
                self.wait_for(each)
            yield self
        finally:
            for each in self.workers:
                each.kill()

    def wait_for(self, worker: Process) -> None:
        if not wait_until(lambda: self.engine.ready in worker.output(), START):
            raise RuntimeError(f"A worker does not begin to work: {worker.output()[-2000:]}")

    def replace(self, worker: Process) -> None:
        self.workers[self.workers.index(worker)] = self._start()

    def _start(self) -> Process:
        return self.engine.start(**self.environment)


@dataclass
class Injector:
    crew: Crew
    rng: random.Random
    lease: float
    done: Counter[str] = field(default_factory=Counter)

    def run(self, kills: int, others: int, seconds: float) -> None:
        """So many faults within `seconds`; each hits a worker that has begun to work."""
        names = ["kill"] * kills + self.rng.choices(list(self.others), k=others)
        self.rng.shuffle(names)
        moments = sorted(self.rng.uniform(0, seconds) for _ in names)
        began = time.monotonic()
        for name, moment in zip(names, moments, strict=True):
            time.sleep(max(moment - (time.monotonic() - began), 0))
            victim = self.rng.choice(self.crew.workers)
            self.crew.wait_for(victim)
            time.sleep(self.rng.uniform(0, 0.2))  # it is at a random instruction
            (self._kill if name == "kill" else self.others[name])(victim)
            self.done[name] += 1

    @property
    def others(self) -> dict[str, Callable[[Process], None]]:
        harm = {"terminate": self._terminate, "stop": self._stop}
        if connection.vendor != "sqlite":
            harm["cut off"] = self._cut_off
        return harm

    def _kill(self, victim: Process) -> None:
        """As the machine's end would: the process and all its children, at once."""
        victim.kill()
        self.crew.replace(victim)

    def _terminate(self, victim: Process) -> None:
        """As a deployment does: SIGTERM to the process, and no end of it is waited for."""
        victim.send(signal.SIGTERM)
        if not wait_until(lambda: victim.popen.poll() is not None, 5):
            victim.kill()
        self.crew.replace(victim)

    def _stop(self, victim: Process) -> None:
        """As a machine that is out of memory does: it comes back when its leases have run out."""
        os.killpg(victim.pid, signal.SIGSTOP)
        time.sleep(self.lease + 1)
        os.killpg(victim.pid, signal.SIGCONT)

    def _cut_off(self, victim: Process) -> None:
        """As a fail-over does: the database ends all connections of all workers."""
        with connection.cursor() as cursor:
            cursor.execute(SESSIONS[connection.vendor])
            for (session,) in cursor.fetchall():
                if session not in spared:
                    with suppress(DatabaseError):  # it has gone by itself
                        cursor.execute(END_SESSION[connection.vendor], [session])


spared: set[int] = set()
"""Sessions of the harness itself."""

SESSIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = current_database()",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database()",
}
END_SESSION = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}
MY_SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}


def spare_this_thread() -> None:
    """Leave the connection of this thread alone."""
    if query := MY_SESSION.get(connection.vendor):
        with connection.cursor() as cursor:
            cursor.execute(query)
            spared.add(cursor.fetchone()[0])
