"""From save() to receipt at 200 events a second: python -m tests.benchmarks.latency [SECONDS]

From the call of save() until the request has reached the receiver, with the saver, the worker and
the receiver each in a process of its own, for two ways to wake the worker: `webhooks_drain --loop`
woken by NOTIFY, and a django-q2 cluster with two workers whose broker is the database. (At that
rate a loop that looks ten times a second is as fast as one that is woken, for it is always busy.)
On PostgreSQL; makes and removes a test database.
"""

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from django.db import connection
from django_q.models import OrmQ

from django_webhooks.models import Event, Subscription
from tests.benchmarks.crew import Crew
from tests.benchmarks.lab import (
    Row,
    database,
    empty,
    environment,
    median,
    report,
    spread,
    take_turns,
    tidy,
)
from tests.benchmarks.receiver import FastReceiver
from tests.processes import DJANGO_Q, Process, running
from tests.shop.models import Order

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 3
RATE = 200
WARM_UP = 100
NOTIFY = "django_webhooks.backends.postgres_notify.NotifyBackend"


@dataclass(frozen=True)
class Engine:
    backend: str
    command: tuple[str, ...]
    median: float | None = None
    """Milliseconds that are promised."""
    p95: float | None = None


ENGINES: Mapping[str, Engine] = {
    "`webhooks_drain --loop`, NOTIFY": Engine(NOTIFY, ("webhooks_drain", "--loop"), 30, 100),
    "django-q2, ORM broker": Engine(DJANGO_Q, ("qcluster",), p95=250),
}


class Bench:
    def __init__(self, receiver: FastReceiver) -> None:
        self.receiver = receiver
        self.p95: dict[str, list[float]] = {}
        self.rate: list[float] = []

    def run(self, name: str) -> float:
        """The median in milliseconds; `p95` has that of each run."""
        engine = ENGINES[name]
        empty()
        empty(Order, OrmQ)
        Subscription.objects.create(url=self.receiver.url).rules.create(event_type="shop.order.*")
        tidy()
        chosen = environment() | {"TASK_BACKEND": engine.backend}
        with running(Process(*engine.command, **chosen)):
            self._save(WARM_UP, chosen)
            waits = self._save(round(RATE * SECONDS), chosen)
        cuts = statistics.quantiles(waits, n=100)
        self.p95.setdefault(name, []).append(cuts[94])
        return cuts[49]

    def _save(self, count: int, chosen: dict[str, str]) -> list[float]:
        """Milliseconds from each save() to its receipt."""
        self.receiver.ask()
        [told] = Crew("save", 1, chosen, rate=RATE, count=count).run().told
        came: dict[str, list[float]] = {}
        until = time.monotonic() + 30
        while len(came) < count:
            if time.monotonic() > until:
                raise SystemExit(f"{len(came)} of {count} events came.")
            time.sleep(0.1)
            came |= self.receiver.ask().at
        self.rate.append(count / told["seconds"])
        events = dict(Event.objects.filter(pk__in=came).values_list("pk", "subject_id"))
        return [(min(came[pk]) - told["began"][subject]) * 1000 for pk, subject in events.items()]


def main() -> None:
    if connection.vendor != "postgresql":
        print("latency: on PostgreSQL only.")
        return
    with database(), FastReceiver(keep=True) as receiver:
        bench = Bench(receiver)
        found = take_turns({name: partial(bench.run, name) for name in ENGINES})
        rows = []
        for name, engine in ENGINES.items():
            for what, values, must in (
                ("median", found[name], engine.median),
                ("p95", bench.p95[name], engine.p95),
            ):
                measured = spread(values, " ms")
                title = f"save() to receipt at {RATE}/s, {name}: {what} in ms"
                rows.append(Row(title, measured, "", median(values), must, less=True))
        reached = median(bench.rate)
        note = f"The saver reached {reached:.0f} events per second."
        if reached < 0.95 * RATE:
            note += " That is too few: the machine had other things to do, and nothing is shown."
        report("latency", rows, note)


if __name__ == "__main__":
    main()
